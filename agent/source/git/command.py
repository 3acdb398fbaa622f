"""Runs git(1): bounded in time, with no terminal to ask on, and executing nothing that a repository holds.

What is given here on the command line counts before every configuration file. The operator's own configuration counts
where a network is spoken to, since credential helpers, proxies and certificates are named there, and nowhere else.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent.errors import Blocked, RetryLater
from state.spec.words import printable

LOCAL_TIMEOUT = 60.0
NETWORK_TIMEOUT = 120.0
"""Seconds that git gets; a server that is silent for SILENCE is given up before."""
SILENCE = 30
_PROTOCOLS = "https:ssh:file"
_LONGEST = 300
_NEVER = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "core.fsync": "committed",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "push.recurseSubmodules": "no",
    "gc.autoDetach": "false",
    "log.showSignature": "false",
}
_OVER_THE_NETWORK = {
    "transfer.credentialsInUrl": "die",
    "fetch.unpackLimit": "1",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": str(SILENCE),
}
_KEPT = frozenset(
    {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH"}
    | {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT"}
    | {"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_CERT", "GIT_SSL_KEY"}
)
"""Variables of git that an operator sets for the way to a server. Others do not count: they could name another
repository."""


class GitFailed(RetryLater):
    """git did not do what it was asked. `status`: its exit status, None where it was ended for taking too long;
    `remote`: whether it may have spoken to a server."""

    def __init__(self, message: str, *, status: int | None, remote: bool) -> None:
        super().__init__(message)
        self.status = status
        self.remote = remote


class NoGit(Blocked):
    """There is no git on this host."""


class Git:
    """git on one repository. While one of its processes runs, `busy` is locked by flock(1), shared, also when the agent
    is gone; what git leaves behind, such as the daemon of a credential helper, does not have that lock."""

    def __init__(self, directory: Path, *, busy: Path | None = None) -> None:
        self.directory = directory
        self.busy = busy

    def local(
        self,
        *words: str,
        stdin: bytes = b"",
        config: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> bytes:
        """What git prints, which speaks to nobody. Raises GitFailed and NoGit."""
        command = self.words(*words, config={**_NEVER, **(config or {})})
        environment = {**alone(), **(variables or {})}
        return self._run(words[0], command, environment, stdin)

    def remote(self, *words: str) -> bytes:
        """What git prints, which may speak to a server. Raises GitFailed and NoGit."""
        return self._run(words[0], self.network_words(*words), _environment(), None)

    def initialise(self) -> None:
        """Make the repository: bare, without hooks or anything else of a template. Raises GitFailed and NoGit."""
        self.local("init", "--quiet", "--bare", "--template=", "--initial-branch=none")

    def network_words(self, *words: str) -> list[str]:
        """The command for what may speak to a server. An agent that is killed leaves its git behind, which must come to
        its end all the same."""
        end = ["timeout", "--kill-after=5", str(NETWORK_TIMEOUT + 1)]
        return [*end, *self.words(*words, config={**_NEVER, **_OVER_THE_NETWORK})]

    def words(self, *words: str, config: Mapping[str, str] = _NEVER) -> list[str]:
        """The command, with these settings before all others."""
        settings = (word for key, value in config.items() for word in ("-c", f"{key}={value}"))
        return ["git", *settings, f"--git-dir={self.directory}", *words]

    def _run(
        self, what: str, command: list[str], environment: Mapping[str, str], stdin: bytes | None
    ) -> bytes:
        remote = stdin is None
        timeout = NETWORK_TIMEOUT if remote else LOCAL_TIMEOUT
        if self.busy is not None:
            command = ["flock", "--shared", "--close", os.fspath(self.busy), *command]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise no_git(error) from error
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            late = f"git {what} did not end within {timeout:.0f} s"
            raise GitFailed(late, status=None, remote=remote) from None
        except BaseException:
            _end(process)
            raise
        status = process.returncode
        if status != 0:
            raise GitFailed(_said(err, what, status), status=status, remote=remote)
        return out


def no_git(error: OSError) -> NoGit:
    """What is raised where git could not be started."""
    hint = "install it: apt install git" if isinstance(error, FileNotFoundError) else ""
    return NoGit(f"git cannot be run: {error.strerror}", hint=hint)


def alone() -> dict[str, str]:
    """The environment of a git that speaks to nobody: no configuration but that of its repository."""
    nobody = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return _environment() | nobody | {"GIT_ALLOW_PROTOCOL": "none"}


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _KEPT
    }
    return kept | {
        "LC_ALL": "C.UTF-8",
        # Before whatever any configuration allows.
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started: they are one session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _said(err: bytes, what: str, status: int) -> str:
    """The line that says why, of all that git prints; whatever a server says is among it."""
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    chosen = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:", "ssh:"))]
    others = [line for line in lines if not line.startswith(("hint:", "warning:"))]
    said = next(iter([*chosen, *others[-1:]]), f"git {what} ended with {status}")
    return printable(said.removeprefix("fatal: ").removeprefix("error: "))[:_LONGEST]
