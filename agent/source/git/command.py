"""Runs git(1): bounded in time, in what it prints and writes, with no terminal to ask on, and executing nothing that a
repository holds.

What is given here on the command line counts before every configuration file. The operator's own configuration counts
where a network is spoken to, since credential helpers, proxies and certificates are named there, and nowhere else.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.errors import Blocked, RetryLater
from agent.source.git import process
from agent.source.git.room import Room
from state.spec.words import excerpt

LOCAL_TIMEOUT = 60.0
NETWORK_TIMEOUT = 120.0
"""Seconds that git gets; a server that is silent for SILENCE is given up before."""
SILENCE = 30
MEMORY = 1 << 30
"""Bytes that each of its processes may have for what it fetches, packs or is told by a server."""
_PROTOCOLS = "https:ssh:file"
_NO_ROOM = (os.strerror(errno.EFBIG).encode(), os.strerror(errno.ENOSPC).encode())
"""What git says of a file that it could not write. It speaks English: see `_environment`."""
_NEVER = {
    "core.hooksPath": os.devnull,
    "core.fsync": "committed",
    "submodule.recurse": "false",
    "gc.autoDetach": "false",
    "pack.threads": "2",  # each has a stack, which counts as memory
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
    """git did not do what it was asked. `status`: its exit status, None where it was kept from its end; `remote`:
    whether it may have spoken to a server."""

    def __init__(self, message: str, *, status: int | None, remote: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.remote = remote

    @property
    def is_of_the_repository(self) -> bool:
        """Whether git said no, not killed by anybody, and spoke to nobody: its repository may be broken."""
        return self.status is not None and self.status > 0 and not self.remote


class NoRoom(GitFailed):
    """What git would write has no room on its disk."""

    def __init__(self, room: Room, *, remote: bool) -> None:
        hint = "make room there"
        super().__init__(f"no room for it: {room}", status=None, remote=remote, hint=hint)
        self.room = room


class NoGit(Blocked):
    """There is no git on this host."""


class Git:
    """git on one repository, which it may write to where it is given `busy`. That is locked by flock(1), shared, while
    one of its processes runs, also when the agent is gone; what git leaves behind, such as the daemon of a credential
    helper, does not have that lock. No file that it writes is longer than its disk has room for."""

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
        """What git prints, which speaks to nobody. Raises GitFailed and NoGit, and OSError where the disk fails."""
        command = self.words(*words, config={**_NEVER, **(config or {})})
        environment = {**alone(), **(variables or {})}
        return self._run(words[0], command, environment, stdin)

    def remote(self, *words: str) -> bytes:
        """What git prints, which may speak to a server. Raises as `local`."""
        command = self.words(*words, config={**_NEVER, **_OVER_THE_NETWORK})
        return self._run(words[0], command, _environment(), None)

    def initialise(self) -> None:
        """Make the repository: bare, without hooks or anything else of a template. Raises GitFailed and NoGit."""
        self.local("init", "--quiet", "--bare", "--template=", "--initial-branch=none")

    def words(self, *words: str, config: Mapping[str, str] = _NEVER) -> list[str]:
        """The command, with these settings before all others."""
        settings = (word for key, value in config.items() for word in ("-c", f"{key}={value}"))
        return ["git", *settings, f"--git-dir={self.directory}", *words]

    def _run(
        self, what: str, command: list[str], environment: Mapping[str, str], stdin: bytes | None
    ) -> bytes:
        remote = stdin is None
        timeout = NETWORK_TIMEOUT if remote else LOCAL_TIMEOUT
        room = None
        if self.busy is not None:
            room = Room.of(self.busy.parent)
            command = _confined(command, self.busy, room)
        if remote:
            command = _ended(command)
        try:
            done = process.run(command, environment, stdin or b"", timeout)
        except process.TooLong as error:
            late = f"git {what} did not end within {timeout:.0f} s"
            raise GitFailed(late, status=None, remote=remote) from error
        except process.TooMuch as error:
            much = f"git {what} printed more than {process.MOST >> 20} MiB"
            raise GitFailed(much, status=None, remote=remote) from error
        except OSError as error:
            raise no_git(error) from error
        if done.status == 0:
            return done.printed
        if room is not None and _lacked_room(done.said):
            raise NoRoom(room, remote=remote)
        why = _why(done.said, what, done.status)
        raise GitFailed(why, status=done.status, remote=remote, hint=_hint(why))


def _confined(command: list[str], busy: Path, room: Room) -> list[str]:
    """git that holds a lock meanwhile, and that takes no more of disk and memory than it may."""
    lock = ["flock", "--shared", "--close", os.fspath(busy)]
    file = _allowed(resource.RLIMIT_FSIZE, room.of_a_file)
    memory = _allowed(resource.RLIMIT_DATA, MEMORY)
    return [*lock, "prlimit", f"--fsize={file}", f"--data={memory}", *command]


def _ended(command: list[str]) -> list[str]:
    """What comes to its end also where the agent that began it was killed: all of it at once, and with it the lock."""
    return ["timeout", "--signal=KILL", str(NETWORK_TIMEOUT + 1), *command]


def _allowed(kind: int, wanted: int) -> int:
    """As much of it as is wanted, or as this process may give."""
    most = resource.getrlimit(kind)[1]
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def _lacked_room(said: bytes) -> bool:
    ours = (line for line in said.splitlines() if not line.startswith(b"remote:"))
    return any(words in line for line in ours for words in _NO_ROOM)


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
        "LANGUAGE": "",  # counts before it otherwise: gettext(3)
        # Before whatever any configuration allows.
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def _hint(why: str) -> str:
    if "dubious ownership" not in why:
        return ""
    trust = "git config --global --add safe.directory PATH"
    return f"it belongs to another user: follow it as that one, or trust it with `{trust}`"


_NO_WAY = "fatal: Could not read from remote repository."
_refusal = re.compile(r"! \[(?:remote )?rejected\].* \((.*)\)").fullmatch


def _refused(lines: list[str]) -> Iterator[str]:
    """What git-push(1) says of a ref that was not taken, and the server of its reasons."""
    for found in filter(None, map(_refusal, lines)):
        told = (
            line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:")
        )
        words = next(filter(None, told), "")
        yield f"it was refused: {found[1]}" + (f" (it says: {words})" if words else "")


def _why(err: bytes, what: str, status: int) -> str:
    """The line that says why, of all that git prints; whatever a server says is among it."""
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    chosen = [*_refused(lines)]
    chosen += [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:", "ssh:"))]
    others = [line for line in lines if not line.lower().startswith(("hint:", "warning:"))]
    if chosen[:1] == [_NO_WAY]:
        # Why there is none, ssh(1) has said just before.
        chosen = others[: others.index(_NO_WAY)][-1:] or chosen
    said = next(iter([*chosen, *others[-1:]]), f"git {what} ended with {status}")
    return excerpt(said.removeprefix("fatal: ").removeprefix("error: "))
