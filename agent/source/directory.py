"""A directory of YAML as a source: what is wanted according to the files that lie there now."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.source.absence import Absence
from agent.source.beside import read_attachment
from agent.source.contents import Contents
from agent.source.files import Directory
from agent.source.git.worktree import WorkTree
from agent.source.ignore import Verdicts
from agent.source.text import MOST_BYTES
from agent.source.tree import Content, Look, Moved, shown
from agent.source.walk import Walk
from state.desired import Desired, Problem, SourceInfo
from state.ids import Digest


class DirectoryTree:
    """The files below a directory. What is read after a look is read where the look went, even if the root is a link
    that leads elsewhere by then."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = Directory(os.path.abspath(root))
        self._verdicts = Verdicts()
        self._last = Look()

    @property
    def directory(self) -> Path:
        return Path(os.path.abspath(self._root))

    def look(self, now: float) -> Look:
        try:
            real = os.path.realpath(self._root, strict=True)
            os.stat(os.path.join(real, "."))
        except OSError as error:
            message = f"the directory cannot be read: {error.strerror}"
            return Look(problems=(Problem(".", 0, 0, message),))
        self._directory = Directory(real)
        self._last = Walk(self._directory, self._verdicts, self._last, now).look()
        return self._last

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        return self._directory.read(path, now, most)

    def stamp(self, path: str) -> Hashable | None:
        return self._directory.stamp(path)


class DirectorySource:
    """What a directory says is wanted on a host. `load` may be called from any thread, by one at a time."""

    def __init__(
        self,
        root: Path,
        *,
        host: str,
        images_file: Path | None = None,
        image_roots: Sequence[Path] = (),
    ) -> None:
        self._location = shown(str(root))
        self._tree = DirectoryTree(root)
        self._contents = Contents(self._tree, images_file=images_file, image_roots=image_roots)
        self._assembler = self._contents.assembler(host)
        self._absence = Absence()
        self._work_tree = WorkTree(root)
        self._told: tuple[Desired, Desired] | None = None

    def load(self, now: float) -> Desired:
        """What is wanted now. `now` is Unix time. Raises nothing for what is on disk; cheap while nothing changes."""
        source = SourceInfo("directory", self._location)
        try:
            desired = self._contents.desired(self._assembler, source, now)
            desired = self._at_commit(desired, now)
        except Moved:
            desired = Desired(source, unproven="the tree keeps changing while it is read")
        broken = [problem for problem in desired.problems if problem.file == "."]
        if broken:
            error = f"{self._location}: {broken[0].message}"
            rest = tuple(problem for problem in desired.problems if problem not in broken)
            desired = replace(desired, source=replace(source, error=error), problems=rest)
        return self._absence.judge(desired, now)

    def _at_commit(self, desired: Desired, now: float) -> Desired:
        """What was read, with the commit that the directory is checked out at; the same object for the same."""
        commit = self._work_tree.look(now)
        if commit is None:
            return desired
        before, told = self._told or (None, None)
        if told is None or before is not desired or told.source.commit != commit:
            dirty = self._work_tree.is_dirty(self._contents.blobs, self._contents.needs)
            told = replace(desired, source=replace(desired.source, commit=commit, dirty=dirty))
            self._told = (desired, told)
        return told

    def attachment(self, path: str, digest: Digest) -> bytes:
        """The file that a job's spec names as an attachment. May be called from any thread, also while `load` runs.
        Raises SourceChanged where it is no longer what it was when the spec was read."""
        return read_attachment(self._tree, path, digest)
