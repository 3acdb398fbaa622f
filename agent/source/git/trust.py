"""Whose commits are followed: each must bear a good signature by somebody whom a file of the operator's lists.

The file is an allowed-signers file of ssh-keygen(1), or a keyring of OpenPGP keys as `gpg --export` writes it. What
git says of a signature is taken by its letter (`%G?` in git-log(1)): words such as "Good signature" stand in its output
also where nobody is known who made it.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import Blocked
from agent.source.git.command import Git, GitFailed

_AT_ONCE = 200
"""Commits whose signatures one git is asked for: each takes a process of its own."""
_GPG_TIMEOUT = 30.0
_NO_PROGRAM = "false"
_BROKEN_PIPE = (-signal.SIGPIPE, 128 + signal.SIGPIPE)
_WHY = {
    "N": "is not signed",
    "B": "has a signature that does not fit it",
    "U": "is signed by somebody who is not listed in {file}, or not for its date",
    "E": "is signed by somebody who is not listed in {file}, or not for its date",
    "X": "has a signature that has expired",
    "Y": "is signed with a key that has expired",
    "R": "is signed with a key that was revoked",
}


@dataclass(frozen=True, slots=True)
class Signers:
    """Those whom `file` lists."""

    file: Path

    def objection(self, git: Git, commits: Sequence[str]) -> tuple[str, str] | None:
        """The first of the commits that nobody listed has signed, and why it is not followed, as the rest of a sentence
        about it. Raises GitFailed, and Blocked where the file is of no use."""
        with self._verifying() as (config, variables):
            for at in range(0, len(commits), _AT_ONCE):
                some = commits[at : at + _AT_ONCE]
                letters = _letters(git, some, config, variables)
                for one in some:
                    if (letter := letters.get(one, "")) != "G":
                        why = _WHY.get(letter, "has a signature that cannot be verified")
                        return one, why.format(file=self.file)
        return None

    @contextmanager
    def _verifying(self) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
        """Settings and variables with which git knows those who are listed, and nobody else."""
        nobody = dict.fromkeys(("gpg.program", "gpg.x509.program", "gpg.ssh.program"), _NO_PROGRAM)
        if self._kind() == "ssh":
            yield (
                nobody
                | {
                    "gpg.ssh.program": "ssh-keygen",
                    "gpg.ssh.allowedSignersFile": str(self.file),
                },
                {},
            )
            return
        with tempfile.TemporaryDirectory(prefix="holdfast-") as home:
            self._import(Path(home))
            yield nobody | {"gpg.program": "gpg"}, {"GNUPGHOME": home}

    def _kind(self) -> str:
        try:
            with self.file.open("rb") as file:
                start = file.read(64)
        except OSError as error:
            raise Blocked(
                f"reading the signers {self.file}: {error.strerror}",
                hint="--verify-signatures takes an allowed-signers file, or a keyring",
            ) from error
        # RFC 4880, 4.2: the highest bit of a packet's first octet is set.
        binary = bool(start) and start[0] & 0x80
        return "gpg" if binary or start.startswith(b"-----BEGIN PGP") else "ssh"

    def _import(self, home: Path) -> None:
        # Whoever is in the keyring is trusted: that is what the operator says by it.
        (home / "gpg.conf").write_text("trust-model always\n")
        try:
            done = subprocess.run(
                ["gpg", "--homedir", home, "--batch", "--quiet", "--import", "--", self.file],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_GPG_TIMEOUT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            hint = "install it: apt install gnupg" if isinstance(error, FileNotFoundError) else ""
            raise Blocked(f"gpg cannot be run: {error}", hint=hint) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Blocked(
                f"importing the keyring {self.file}: {said[-1] if said else 'gpg failed'}",
                hint="write it with gpg --export",
            )


def _letters(
    git: Git, commits: Sequence[str], config: Mapping[str, str], variables: Mapping[str, str]
) -> dict[str, str]:
    """What git says of each commit's signature. ssh-keygen(1) reads no commit where what should be its signature is
    none; git then calls that bad, or dies of the broken pipe, whichever comes first. Raises GitFailed."""
    try:
        told = git.local(
            "log",
            "--no-walk=unsorted",
            "--stdin",
            "--format=%H %G?",
            stdin="".join(f"{one}\n" for one in commits).encode(),
            config=config,
            variables=variables,
        )
    except GitFailed as error:
        if error.status not in _BROKEN_PIPE:
            raise
        if len(commits) == 1:
            return {commits[0]: "B"}
        half = len(commits) // 2
        earlier = _letters(git, commits[:half], config, variables)
        return earlier | _letters(git, commits[half:], config, variables)
    return dict(line.split() for line in told.decode().splitlines())
