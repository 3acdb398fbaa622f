"""Reads objects of a repository by their ids, from one `git cat-file --batch`.

git-cat-file(1), BATCH OUTPUT: for each line with an id it answers `<id> SP <type> SP <size> LF <contents> LF`, or
`<id> SP missing LF`. No filter and no text conversion is applied.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, NamedTuple, cast

from agent.errors import BadInput, RetryLater
from agent.source.git.command import Git, GitFailed, alone, no_git

_PIECE = 1 << 20
LARGEST_TREE = 16 << 20
"""Bytes of an object that says what lies in a directory: some hundred thousand names."""
FILE, DIRECTORY, LINK, SUBMODULE = 0o100000, 0o040000, 0o120000, 0o160000
_KIND = 0o170000


class Unsound(RetryLater):
    """The repository lacks an object that it should have, or cannot read it."""


class TooLarge(RetryLater):
    """A commit holds more than is looked through."""


class Member(NamedTuple):
    """A line of a tree object. `mode`: one of the four kinds above; `name` as the system would spell it."""

    name: str
    mode: int
    oid: str


class Objects:
    """The objects of one repository. Any thread may read; the process behind it runs until `rest`."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def rest(self) -> None:
        """End the process; the next who reads starts another."""
        with self._lock:
            self._stop()

    def blob(self, oid: str, most: int) -> bytes:
        """A file's content, or the first `most` and one bytes of a larger one. Raises Unsound, and BadInput where it is
        something else: who makes a commit can have a tag stand for a file."""
        return self._read(oid, b"blob", most)

    def tree(self, oid: str) -> list[Member]:
        """What lies in a directory. Raises Unsound and TooLarge."""
        data = self._read(oid, b"tree", LARGEST_TREE)
        if len(data) > LARGEST_TREE:
            raise TooLarge(f"a directory in it has a list of more than {LARGEST_TREE >> 20} MiB")
        try:
            return list(_members(data, len(oid) // 2))
        except ValueError as error:
            raise Unsound(f"reading tree {oid}: it is no list of a directory") from error

    def sizes(self, oids: Sequence[str]) -> list[int]:
        """How many bytes each of these objects has. Raises Unsound where one is missing, and GitFailed."""
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        try:
            told = self._git.local("cat-file", "--batch-check=%(objectsize)", stdin=asked)
        except GitFailed as error:
            if not error.is_of_the_repository:
                raise
            raise Unsound(f"reading the sizes of objects: {error}") from error
        lines = told.split(b"\n")
        try:
            return [int(line) for line in lines[:-1]]
        except ValueError as error:
            missing = next(line for line in lines if not line.isdigit())
            raise Unsound(f"reading object {missing.decode(errors='replace')}") from error

    def root(self, commit: str) -> str:
        """The id of what lies in a commit's root directory. Raises Unsound."""
        data = self._read(commit, b"commit", 1 << 16)
        # gitformat: the first line of a commit is `tree SP <id>`.
        return data.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii", "replace")

    def _read(self, oid: str, kind: bytes, most: int) -> bytes:
        with self._lock:
            try:
                return self._ask(oid, kind, most)
            except OSError as error:
                self._stop()
                raise Unsound(f"reading object {oid}: {error.strerror or error}") from error
            except BaseException:
                self._stop()  # what it answers next would be taken for something else
                raise

    def _ask(self, oid: str, kind: bytes, most: int) -> bytes:
        process = self._running()
        asked, answered = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        asked.write(f"{oid}\n".encode())
        asked.flush()
        header = answered.readline().split()
        if len(header) == 3 and header[1] != kind == b"blob":
            raise BadInput(f"git calls it a file, and it is a {header[1].decode()}")
        if len(header) != 3 or header[1] != kind:
            said = b" ".join(header[1:]).decode(errors="replace") or "git cannot read it"
            raise Unsound(f"reading {kind.decode()} {oid}: {said}")
        size = int(header[2])
        data = answered.read(min(size, most + 1))
        left = size - len(data) + 1
        while left > 0 and (more := answered.read(min(left, _PIECE))):
            left -= len(more)
        if left > 0:
            raise Unsound(f"reading {kind.decode()} {oid}: git ended in the midst of it")
        return data

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._git.words("cat-file", "--batch"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=alone(),
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise no_git(error) from error
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    # What it was asked last may still be on its way to it.
                    with suppress(BrokenPipeError):
                        pipe.close()
            self._process.wait()
            self._process = None


def _members(data: bytes, width: int) -> Iterator[Member]:
    """A tree object is `<octal mode> SP <name> NUL <id>`, one after the other; `width` is the length of an id in
    bytes."""
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        oid = data[end + 1 : end + 1 + width]
        name = os.fsdecode(data[space + 1 : end])
        yield Member(name, _kind(int(data[at:space], 8)), oid.hex())
        at = end + 1 + width


def _kind(mode: int) -> int:
    """What git takes a mode for, whatever number an author wrote: `canon_mode` in its object.h."""
    kind = mode & _KIND
    return kind if kind in (FILE, DIRECTORY, LINK) else SUBMODULE
