"""Which commit a directory is checked out at, and whether its documents, and what these name, are still as committed.

Nothing of the repository is written or executed: contents are compared by their ids, without filters, hooks or an
index. A directory whose repository cannot be read is a directory like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HoldfastError
from agent.source.beside import Needs
from agent.source.git.command import Git
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects

_SHA1 = 40
_AGAIN, _LATEST = 60.0, 3600.0
"""Seconds after which a repository is asked again that could not be read: it may have been slow, or in the making. They
double with each further time, since whoever looks waits for a slow one."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A repository that a directory belongs to. `below`: the directory's path in it."""

    git_dir: str
    common: str
    below: str


class WorkTree:
    """The work tree that `directory` lies in, where it lies in one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: object = None
        self._failed: float | None = None
        self._pause = _AGAIN
        self._commit: str | None = None
        self._committed: _Committed | None = None

    def look(self, now: float) -> str | None:
        """The commit that is checked out; None where there is none that could be read. `now` is Unix time."""
        found = _repository(os.path.realpath(self._directory))
        seen = None if found is None else (found, _head(found))
        again = self._failed is not None and abs(now - self._failed) >= self._pause
        if seen != self._seen or again:
            self._pause = min(2 * self._pause, _LATEST) if again else _AGAIN
            self._seen, self._failed, self._commit, self._committed = seen, None, None, None
            if found is not None:
                try:
                    self._read(found)
                except (HoldfastError, OSError, ValueError):
                    self._failed = now
        return self._commit

    def is_dirty(self, blobs: Mapping[str, str], needs: Needs) -> bool | None:
        """Whether files differ from those of the commit: such as have documents, given as the ids of what they hold by
        their paths, and such as these name. None where that cannot be told."""
        if self._committed is None:
            return None
        if self._committed.blobs != blobs:
            return True
        try:
            return self._committed.lacks(needs)
        except HoldfastError:
            return None

    def _read(self, found: _Found) -> None:
        git = Git(Path(found.git_dir))
        told = git.local("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self._commit = told.decode().strip()
        if len(self._commit) != _SHA1:
            return  # what is compared with is known by SHA-1 alone
        committed = _Committed(git, self._commit, found.below)
        if not committed.is_too_large:
            self._committed = committed


class _Committed:
    """What a commit holds below a directory. Raises HoldfastError where it cannot be read."""

    def __init__(self, git: Git, commit: str, below: str) -> None:
        self._objects = Objects(git)
        self._tree = CommitTree(self._objects, below)
        with self._resting():
            self._tree.at(self._objects.root(commit))
            look = self._tree.look(0.0)
        self.is_too_large = self._tree.is_too_large
        self.blobs = {entry.path: str(entry.stamp) for entry in look.entries}

    def lacks(self, needs: Needs) -> bool:
        """Whether one of these files is another one in it, or there in one of both alone. Of one that could not be read
        that is not said."""
        with self._resting():
            return any(
                self._tree.stamp(path) != need.blob
                for path, need in needs.items()
                if need.stamp is None or need.blob is not None
            )

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Leave no process behind."""
        try:
            yield
        finally:
            self._objects.rest()


def git_directory(path: Path) -> Path | None:
    """The repository at `path`, or the one of the work tree that it lies in."""
    if all((path / name).exists() for name in ("HEAD", "objects", "refs")):
        return path
    found = _repository(os.path.realpath(path))
    return None if found is None else Path(found.git_dir)


def _repository(directory: str) -> _Found | None:
    """gitrepository-layout(5): `.git` is the repository, or a file that says where it is; `commondir` says where what
    several work trees share is."""
    top = directory
    while not os.path.lexists(os.path.join(top, ".git")):
        if top == "/":
            return None
        top = os.path.dirname(top)
    git_dir = os.path.join(top, ".git")
    with suppress(OSError, ValueError):
        if os.path.isfile(git_dir):
            said = Path(git_dir).read_text().removeprefix("gitdir:").strip()
            git_dir = os.path.join(top, said)
        common = git_dir
        with suppress(FileNotFoundError):
            common = os.path.join(git_dir, Path(git_dir, "commondir").read_text().strip())
        below = os.path.relpath(directory, top)
        return _Found(git_dir, common, "" if below == "." else below)
    return None


def _head(found: _Found) -> object:
    """What differs whenever another commit is checked out."""
    with suppress(OSError, ValueError):
        head = Path(found.git_dir, "HEAD").read_text()
        ref = head.removeprefix("ref:").strip()
        files = (os.path.join(found.common, ref), os.path.join(found.common, "packed-refs"))
        return (head, *map(_stamp, files))
    return None


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
