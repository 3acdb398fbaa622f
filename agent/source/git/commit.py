"""The files of one commit, as a tree to read documents from: nothing is checked out, nothing is executed.

A few objects can make a tree that never ends, by naming each other: there is a limit to what is looked through.

A symbolic link is followed inside the tree only. What git calls a submodule is not looked into. Of both it cannot be
told whether documents lie there, so that nothing is proven to be gone until they are ignored by name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BadInput
from agent.source.files import is_git
from agent.source.git.objects import DIRECTORY, LINK, SUBMODULE, Member, Objects, TooLarge
from agent.source.ignore import Verdicts
from agent.source.text import MOST_BYTES
from agent.source.tree import Content, Look, Missing
from agent.source.walk import Walk
from state.desired import Problem

MOST_MEMBERS = 100_000
"""Files and directories of a commit that are looked through. One with a long path counts for several."""
_LONG = 256
MOST_TEXT = 64 << 20
"""Bytes of all documents of a commit together; each counts for a KiB at least."""
_MOST_LINKS = 40
_LONGEST_LINK = 4096
_OUTSIDE = BadInput(
    "it leads outside the tree",
    hint="put the file into the tree, or the link into .holdfastignore",
)
_ELSEWHERE = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git has only the name of: git-lfs, docs/spec.md, "The Pointer"."""
_REFUSED = "the commit is too large to be looked through"
_NOT_LOOKED_INTO = "it is a submodule, which is not looked into (.holdfastignore can pass over it)"


@dataclass(frozen=True, slots=True)
class _Item:
    """Something in the commit; `path` counts from the root of the repository."""

    path: str
    mode: int
    oid: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.mode in (DIRECTORY, SUBMODULE)

    def is_symlink(self) -> bool:
        return self.mode == LINK


_NO_FILES = (DIRECTORY, SUBMODULE, LINK)
_Listed = dict[str, tuple[str, dict[str, _Item]]]
"""What lies in directories, by their paths; with the id of the object that says so."""


class CommitFiles:
    """The files below a directory of a commit, to be walked through. `below`: the directory's path in the repository,
    empty for its root. Everything raises Unsound where an object is missing, and TooLarge."""

    def __init__(self, objects: Objects, root: str, below: str) -> None:
        self._objects = objects
        self._root = _Item("", DIRECTORY, root)
        self._below = below
        self._listed: _Listed = {}
        self._before: _Listed = {}
        self._number = 0

    def moved(self, root: str) -> CommitFiles:
        """The same directory of another commit; what did not change is not read again."""
        other = CommitFiles(self._objects, root, self._below)
        other._before = self._listed
        return other

    def afresh(self) -> CommitFiles:
        """The same, with nothing seen of it yet."""
        return CommitFiles(self._objects, self._root.oid, self._below)

    @property
    def top(self) -> str:
        return self._below

    def listing(self, key: str) -> list[_Item]:
        at = self._at(key)
        if at.mode == SUBMODULE:
            raise OSError(errno.EXDEV, _NOT_LOOKED_INTO)
        if at.mode != DIRECTORY:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return list(self._members(at).values())

    def settled(self, key: str) -> str:
        return self._at(key).oid

    def stamp_of(self, found: _Item, now: float) -> tuple[Hashable, bool] | None:
        return None if found.mode in _NO_FILES else (found.oid, False)

    def follow(self, path: str) -> _Item:
        found = self._resolved(path)
        if not self._is_inside(found.path):
            raise _OUTSIDE
        if is_git(found.path):
            raise BadInput("it leads into .git, which is no part of the tree")
        return found

    def leads_to_directory(self, path: str) -> bool:
        try:
            return self._resolved(path).is_dir()
        except OSError:
            return False
        except BadInput:
            return True  # what lies outside cannot be told

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        """The file at `path`. Raises Missing and BadInput."""
        if is_git(path):
            raise BadInput("it lies in .git, which is no part of the tree")
        try:
            found = self.follow(path)
        except FileNotFoundError:
            raise Missing("there is no such file") from None
        except OSError as error:
            raise BadInput(f"it cannot be read: {error.strerror}") from error
        if found.is_dir():
            raise BadInput("it is no regular file")
        data = self._objects.blob(found.oid, most)
        if data.startswith(_ELSEWHERE):
            raise BadInput(
                "it is a pointer of Git LFS, and what that stands for is not fetched",
                hint="commit the file itself",
            )
        return Content(data, found.oid)

    def stamp(self, path: str) -> Hashable | None:
        try:
            return self._resolved(path).oid
        except (OSError, ValueError, BadInput):
            return None

    def _is_inside(self, path: str) -> bool:
        return not self._below or path == self._below or path.startswith(f"{self._below}/")

    def _resolved(self, path: str) -> _Item:
        """What a path below the top is in the end. Raises OSError where it is nothing, BadInput where it leads out of
        the repository."""
        waiting = [*reversed(f"{self._below}/{path}".split("/"))]
        way: list[_Item] = [self._root]
        links = 0
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(way) == 1:
                    raise _OUTSIDE
                way.pop()
                continue
            found = self._member(way[-1], part)
            if not found.is_symlink():
                way.append(found)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.fsdecode(self._objects.blob(found.oid, _LONGEST_LINK))
            if target.startswith("/"):
                raise _OUTSIDE
            waiting += reversed(target.split("/"))
        return way[-1]

    def _at(self, path: str) -> _Item:
        """What lies at a path of the repository that has no links in it."""
        found = self._root
        for part in path.split("/") if path else ():
            found = self._member(found, part)
        return found

    def _member(self, folder: _Item, name: str) -> _Item:
        if folder.mode != DIRECTORY:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        found = self._members(folder).get(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found

    def _members(self, folder: _Item) -> dict[str, _Item]:
        known = self._listed.get(folder.path)
        if known is not None:
            return known[1]
        known = self._before.get(folder.path)
        if known is None or known[0] != folder.oid:
            prefix = f"{folder.path}/" if folder.path else ""
            members = {
                one.name: _Item(prefix + one.name, one.mode, one.oid)
                for one in self._objects.tree(folder.oid)
                if _is_name(one)
            }
            known = (folder.oid, members)
        self._number += len(known[1]) * (1 + len(folder.path) // _LONG)
        if self._number > MOST_MEMBERS:
            raise TooLarge(f"it holds more than {MOST_MEMBERS:,} files and directories")
        self._listed[folder.path] = known
        return known[1]


def _is_name(member: Member) -> bool:
    """Whether a member is one that a checkout would make; git refuses to make others."""
    return member.name not in ("", ".", "..") and "/" not in member.name


def _nothing(why: str) -> Look:
    return Look(problems=(Problem(".", 0, 0, why),))


class CommitTree:
    """The files below a directory of a commit that may become another one."""

    def __init__(self, objects: Objects, below: str) -> None:
        self._objects = objects
        self._files = CommitFiles(objects, "", below.strip("/"))
        self._verdicts = Verdicts()
        self._last = Look()
        self._weights: dict[str, int] = {}
        self._is_weighed = False
        self._refused: Look | None = None

    def at(self, root: str) -> None:
        """Be the tree object `root`, a commit's."""
        self._files = self._files.moved(root)
        self._is_weighed = False
        self._refused = None

    @property
    def directory(self) -> Path | None:
        return None

    @property
    def is_too_large(self) -> bool:
        """Whether the last look was refused, since there is too much to look through."""
        return self._refused is not None

    def look(self, now: float) -> Look:
        """Everything that may hold documents. Raises Unsound."""
        if self._refused is not None:
            return self._refused  # it took long enough to find out, and a commit stays as it is
        try:
            self._files.listing(self._files.top)
            look = Walk(self._files, self._verdicts, self._last, now).look()
            if not self._is_weighed:
                self._weigh(look)
        except TooLarge as error:
            self._files = self._files.afresh()
            self._refused = _nothing(
                f"{_REFUSED}: {error} (say --path for fewer, or .holdfastignore)"
            )
            return self._refused
        except OSError:
            return _nothing(f"the commit has no directory `{self._files.top}`")
        self._last = look
        return look

    def _weigh(self, look: Look) -> None:
        """Raises TooLarge where the documents are more than an agent should keep in its memory."""
        oids = [str(entry.stamp) for entry in look.entries]
        new = [*(set(oids) - self._weights.keys())]
        if len(self._weights) + len(new) > 2 * len(oids):
            self._weights = {oid: self._weights[oid] for oid in oids if oid in self._weights}
        for oid, size in zip(new, self._objects.sizes(new) if new else (), strict=True):
            self._weights[oid] = max(size, 1 << 10)
        if sum(map(self._weights.__getitem__, oids)) > MOST_TEXT:
            raise TooLarge(f"its documents are larger than {MOST_TEXT >> 20} MiB together")
        self._is_weighed = True

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        return self._files.read(path, now, most)

    def stamp(self, path: str) -> Hashable | None:
        return self._files.stamp(path)
