"""A few files by name instead of a whole tree: what a pre-commit hook hands over.

They are taken as parts of the tree that holds them all, so the tree's rules count: what it would pass over is passed
over here too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Sequence
from pathlib import Path

from agent.errors import BadInput
from agent.source.files import Directory, is_fresh, stamp_of
from agent.source.ignore import Rules, compile_rules
from agent.source.text import MOST_BYTES
from agent.source.tree import IGNORE_FILE, Content, Entry, Look, Missing, shown
from state.desired import Advice, Problem, SourceRef


class GivenFiles:
    """Files below a root, by their paths relative to it."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = Directory(os.path.realpath(root))
        self._paths = paths

    @property
    def directory(self) -> Path:
        return Path(self._root.real)

    def look(self, now: float) -> Look:
        entries, problems, advice = [], [], []
        for path in sorted(set(self._paths)):
            try:
                if self._is_ignored(path, now):
                    where = SourceRef(shown(path), 0)
                    advice.append(Advice(where, "is passed over, as it would be in its tree"))
                else:
                    entries.append(self._entry(path, now))
            except OSError as error:
                problems.append(Problem(shown(path), 0, 0, f"cannot be read: {error.strerror}"))
            except BadInput as error:
                problems.append(Problem(shown(path), 0, 0, f"cannot be read: {error}"))
        return Look(tuple(entries), tuple(problems), tuple(advice))

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        return self._root.read(path, now, most)

    def stamp(self, path: str) -> Hashable | None:
        return self._root.stamp(path)

    def _entry(self, path: str, now: float) -> Entry:
        below = self._root.resolve(path)
        status = os.stat(os.path.join(self._root.real, below), follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("it is no regular file")
        stamp = stamp_of(status)
        return Entry(path, stamp, is_fresh(stamp, now))

    def _is_ignored(self, path: str, now: float) -> bool:
        parts = path.split("/")
        if any(part.startswith(".") for part in parts):
            return True
        rules: Rules | None = None
        for depth in range(len(parts)):
            prefix = "".join(f"{part}/" for part in parts[:depth])
            if prefix and rules is not None and rules.ignores(prefix):
                return True
            try:
                content = self._root.read(prefix + IGNORE_FILE, now)
            except Missing:
                continue
            rules = compile_rules(prefix, content.data, rules)
        return rules is not None and rules.ignores(path)
