"""Reads files of a directory that others write to: never outside it, never blocking, never half of a change.

Nothing here follows a symbolic link by itself. A path that leads through one is resolved first, must then still lie in
the directory, and is opened component by component, so that a link put in its way meanwhile makes the opening fail.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BadInput
from agent.source.text import MOST_BYTES
from agent.source.tree import Content, Missing

SETTLED_AFTER = 2.0
"""Seconds after a change from which on another one is sure to change the stamp: FAT keeps times to 2 s, others to the
kernel's tick."""
_TRIES = 3
_PIECE = 1 << 20
_LINK_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR)

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, time of the last change of content and of the last change of any kind, in ns."""


def stamp_of(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def is_fresh(stamp: Stamp, now: float) -> bool:
    """Whether the file changed so shortly before `now` (or, by its clock, after it) that its stamp proves nothing."""
    return max(stamp[3], stamp[4]) > (now - SETTLED_AFTER) * 1e9


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a link led to, told of as `os.DirEntry` would."""

    path: str
    status: os.stat_result

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self.status


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory by its real path. Keys of what lies in it are real paths, too."""

    real: str

    @property
    def top(self) -> str:
        return self.real

    def listing(self, key: str) -> list[os.DirEntry[str] | Resolved]:
        with os.scandir(key) as found:
            return list(found)

    def settled(self, key: str) -> Hashable | None:
        """None: a directory's times tell of its names alone, not of what the files hold."""
        return None

    def stamp_of(self, found: os.DirEntry[str] | Resolved, now: float) -> tuple[Stamp, bool] | None:
        status = found.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return None
        # As `stamp_of` and `is_fresh` say, for each of ten thousand files.
        changed, touched = status.st_mtime_ns, status.st_ctime_ns
        stamp = (status.st_dev, status.st_ino, status.st_size, changed, touched)
        settled = (now - SETTLED_AFTER) * 1e9
        return stamp, changed > settled or touched > settled

    def follow(self, path: str) -> Resolved:
        real = os.path.normpath(os.path.join(self.real, self.resolve(path)))
        return Resolved(real, os.stat(real, follow_symlinks=False))

    def leads_to_directory(self, path: str) -> bool:
        return os.path.isdir(os.path.join(self.real, path))

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        """The file at `path` below the directory. Raises Missing and BadInput."""
        if is_git(path):
            raise BadInput("it lies in .git, which is no part of the tree")
        try:
            for _ in range(_TRIES):
                if (content := self._read_once(path, now, most)) is not None:
                    return content
        except FileNotFoundError:
            raise Missing("there is no such file") from None
        except OSError as error:
            raise BadInput(f"it cannot be read: {error.strerror}") from error
        raise BadInput("it keeps changing while it is read")

    def stamp(self, path: str) -> Stamp | None:
        try:
            return stamp_of(os.stat(os.path.join(self.real, path)))
        except (OSError, ValueError):
            return None

    def resolve(self, path: str) -> str:
        """The path below the directory that `path` leads to through symbolic links. Raises BadInput where it leads
        outside, OSError where it leads nowhere."""
        real = os.path.realpath(os.path.join(self.real, path), strict=True)
        if not inside(real, self.real):
            raise BadInput("it leads outside the tree", hint="put the file into the tree")
        below = os.path.relpath(real, self.real)
        if is_git(below):
            raise BadInput("it leads into .git, which is no part of the tree")
        return below

    def _read_once(self, path: str, now: float, most: int) -> Content | None:
        try:
            descriptor = self._open(path)
        except OSError as error:
            if error.errno not in _LINK_IN_THE_WAY:
                raise
            descriptor = self._open(self.resolve(path))
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise BadInput("it is no regular file")
            data = _all_of(descriptor, most)
            stamp = stamp_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if stamp != stamp_of(before):
            return None
        return Content(data, stamp, is_fresh(stamp, now))

    def _open(self, path: str) -> int:
        """Open without following any link: O_NOFOLLOW counts for one component only. A FIFO does not block it."""
        *folders, name = path.split("/")
        at = os.open(self.real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                below = os.open(
                    folder,
                    os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    dir_fd=at,
                )
                os.close(at)
                at = below
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=at)
        finally:
            os.close(at)


def _all_of(descriptor: int, most: int) -> bytes:
    """At most a byte more than is allowed, so that too much is seen as such."""
    parts = []
    left = most + 1
    while left and (part := os.read(descriptor, min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def is_git(path: str) -> bool:
    """A clone's own files may hold the credentials that it is fetched with."""
    return ".git" in path.lower().split("/")


def inside(path: str | Path, directory: str | Path) -> bool:
    """Whether a real path lies in a real directory, or is it."""
    return os.path.commonpath([path, directory]) == os.fspath(directory)
