"""Finds a guest's files by patterns, and reads no more of its directories than it may."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Protocol

from agent.guest.sftp import Attributes, Refused
from state.work import Limits

_LONGEST = 1024
"""Bytes of a name; Linux has 255."""


class Tree(Protocol):
    """What can be asked about files; each raises Refused."""

    def stat(self, path: bytes) -> Attributes: ...
    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]: ...


class Search:
    """One search through a guest's files. `notes` say what was not looked at."""

    def __init__(self, tree: Tree, limits: Limits) -> None:
        self._tree = tree
        self._depth = limits.depth
        self._entries = limits.entries
        self._left = limits.entries
        self._found: set[bytes] = set()
        self.notes: list[str] = []

    def files(self, pattern: str) -> Iterator[bytes]:
        """Paths of the regular files, and of links to such, that the absolute pattern is the first to match."""
        nothing = True
        for path in self._below(b"", [os.fsencode(one) for one in pattern.split("/") if one], 0):
            nothing = False
            if path not in self._found:
                self._found.add(path)
                yield path
        if nothing:
            self._note(f"{pattern} matches no file")

    def _below(self, at: bytes, parts: list[bytes], depth: int) -> Iterator[bytes]:
        first, *rest = parts or [b"**"]
        if first == b"**":
            yield from self._deep(at, rest, depth)
        elif not _is_pattern(first):
            path = at + b"/" + first
            if rest:
                yield from self._below(path, rest, depth)
            elif self._regular(path):
                yield path
        else:
            for name, told in self._names(at):
                if not _matches(name, first):
                    continue
                path = at + b"/" + name
                if rest and _may_be_directory(told):
                    yield from self._below(path, rest, depth)
                elif not rest and self._regular(path, told):
                    yield path

    def _deep(self, at: bytes, rest: list[bytes], depth: int) -> Iterator[bytes]:
        """The rest of the pattern here, and in every directory below that no link leads to."""
        if rest:
            yield from self._below(at, rest, depth)
        if depth == self._depth:
            self._note(f"nothing was looked for more than {depth} levels deep")
            return
        for name, told in self._names(at):
            path = at + b"/" + name
            if name.startswith(b"."):
                continue
            if stat.S_ISDIR(told.mode or 0):
                yield from self._deep(path, rest, depth + 1)
            elif not rest and self._regular(path, told):
                yield path

    def _names(self, path: bytes) -> list[tuple[bytes, Attributes]]:
        """Sorted, so that limits cut off the same files every time."""
        found: list[tuple[bytes, Attributes]] = []
        try:
            with closing(self._tree.entries(path or b"/")) as entries:
                for one in entries:
                    if self._left == 0:
                        self._note(f"only {self._entries} directory entries were looked at")
                        break
                    self._left -= 1
                    if _is_name(one[0]):
                        found.append(one)
        except Refused:
            return []
        return sorted(found, key=lambda one: one[0])

    def _regular(self, path: bytes, told: Attributes | None = None) -> bool:
        """Whether it is one, or the guest says that its link leads to one."""
        if told is None or told.mode is None or stat.S_ISLNK(told.mode):
            try:
                told = self._tree.stat(path)
            except Refused:
                return False
        return stat.S_ISREG(told.mode or 0)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _is_pattern(part: bytes) -> bool:
    return any(one in part for one in b"*?[")


def _matches(name: bytes, part: bytes) -> bool:
    """As a shell has it: a dot at the start is matched by a dot alone."""
    if name.startswith(b".") and not part.startswith(b"."):
        return False
    return fnmatchcase(os.fsdecode(name), os.fsdecode(part))


def _may_be_directory(told: Attributes) -> bool:
    return told.mode is None or stat.S_ISDIR(told.mode) or stat.S_ISLNK(told.mode)


def _is_name(name: bytes) -> bool:
    """A guest may call anything a name; what leads elsewhere is none."""
    return 0 < len(name) <= _LONGEST and name not in (b".", b"..") and not {0, 47} & set(name)
