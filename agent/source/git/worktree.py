"""Which commit a directory is checked out at, and whether its documents are still as they were committed.

Nothing of the repository is written or executed: contents are compared by their ids, without filters, hooks or an
index. A directory whose repository cannot be read is a directory like any other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HoldfastError
from agent.source.git.command import Git
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects

_SHA1 = 40


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
        self._commit: str | None = None
        self._blobs: dict[str, str] | None = None

    def look(self) -> str | None:
        """The commit that is checked out; None where there is none, or none that could be read."""
        found = _repository(os.path.realpath(self._directory))
        seen = None if found is None else (found, _head(found))
        if seen != self._seen:
            self._seen, self._commit, self._blobs = seen, None, None
            if found is not None:
                with suppress(HoldfastError, OSError, ValueError):
                    self._read(found)
        return self._commit

    def is_dirty(self, blobs: Mapping[str, str]) -> bool | None:
        """Whether the documents, as the ids of what they hold by their paths, differ from those of the commit. None
        where that cannot be told."""
        return None if self._blobs is None else self._blobs != blobs

    def _read(self, found: _Found) -> None:
        git = Git(Path(found.git_dir))
        told = git.local("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self._commit = told.decode().strip()
        if len(self._commit) != _SHA1:
            return  # what is compared with is known by SHA-1 alone
        objects = Objects(git)
        try:
            tree = CommitTree(objects, found.below)
            tree.at(objects.root(self._commit))
            self._blobs = {entry.path: str(entry.stamp) for entry in tree.look(0.0).entries}
        finally:
            objects.rest()


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
