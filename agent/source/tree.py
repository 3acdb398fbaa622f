"""Files of a source at one moment: all that reading documents needs to know of a directory, a commit, or a few files.

A tree never gives out what lies outside it, and it tells apart what is not there from what cannot be looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from agent.errors import BadInput
from agent.source.text import MOST_BYTES
from state.desired import Advice, Problem
from state.spec.words import printable

IGNORE_FILE = ".holdfastignore"
SUFFIXES = (".yaml", ".yml")


class Missing(BadInput):
    """There is no such file."""


class Moved(Exception):
    """The tree changed while it was read: what was seen of it is no moment's truth, look again."""


class Entry(NamedTuple):
    """A file that holds documents. `path` is below the root, as the system spells it. `stamp` differs whenever the
    content does, unless the file is `fresh`: changed so shortly before that a later change could leave the same stamp.
    """

    path: str
    stamp: Hashable
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read, whole and unchanged meanwhile."""

    data: bytes
    stamp: Hashable
    fresh: bool = False

    @property
    def blob(self) -> str:
        """Git's id of it. gitformat: the hash of `blob SP <size> NUL <content>`."""
        head = b"blob %d\0" % len(self.data)
        return hashlib.sha1(head + self.data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found in one directory, whose stamp is another when anything in it is. `below` are the directories in
    it to go on with, by path and key; `keys` are those of `entries`; `links` the paths of its symbolic links."""

    stamp: Hashable
    entries: tuple[Entry, ...]
    keys: tuple[str, ...]
    below: tuple[tuple[str, str], ...]
    links: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Every file that may hold documents, by path, and what was in the way of seeing all of them. `folders` are the
    directories, by path and key, that need not be gone through again while their stamps are the same.

    A problem without a name means that absence is not proven.
    """

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()
    advice: tuple[Advice, ...] = ()
    folders: Mapping[tuple[str, str], Folder] = field(default_factory=dict)

    @cached_property
    def by_path(self) -> Mapping[str, Entry]:
        return {entry.path: entry for entry in self.entries}

    @property
    def said(self) -> tuple[object, ...]:
        """All but the entries."""
        return self.problems, self.advice, self.folders


class Tree(Protocol):
    """Where files come from."""

    @property
    def directory(self) -> Path | None:
        """Where the files lie on this host, for images that are given by path; None where they lie nowhere."""

    def look(self, now: float) -> Look:
        """Every file that may hold documents. `now` is Unix time. Never raises for what is on disk."""

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        """A file of the tree, or the first `most` and one bytes of a larger one. Raises Missing, and BadInput that says
        why it cannot be read, never with content of a file outside."""

    def stamp(self, path: str) -> Hashable | None:
        """The present stamp of a file, None where there is none. It is for comparing only."""


def shown(path: str) -> str:
    """A path as messages show it: a file name is any bytes, and a message is text."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))
