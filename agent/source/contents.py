"""The documents of a tree and of the image map beside it, read and put together: everything a source needs but a clock.

A source of any sort is a tree with this behind it. Nothing that a file holds or lacks is raised; it is in the answer.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from agent.errors import BadInput
from agent.source.assemble import Assembler
from agent.source.beside import Needs
from agent.source.documents import Reading
from agent.source.files import Directory, is_fresh, stamp_of
from agent.source.loader import Loader
from agent.source.placing import Outside, local_path_of, placed
from agent.source.text import MOST_BYTES
from agent.source.tree import Content, Entry, Look, Missing, Tree, shown
from state.desired import Desired, Problem, SourceInfo
from state.spec.complaints import Path as KeyPath
from state.spec.document import API
from state.spec.imagemap import PlacedMap, Unusable
from state.spec.images import ImagesDocument

MAP_HEADER: Mapping[str, str] = {"api": API, "kind": "images", "name": "images-file"}
"""What an image map outside the tree may leave out."""


class OneFile:
    """A single file that the operator names: an image map outside the tree. Links to it are the operator's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def directory(self) -> Path:
        return Path(os.path.abspath(self._path)).parent

    def look(self, now: float) -> Look:
        try:
            stamp = stamp_of(os.stat(self._path))
        except OSError:
            return Look((Entry(self._path.name, None, fresh=True),))
        return Look((Entry(self._path.name, stamp, is_fresh(stamp, now)),))

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        real = os.path.realpath(self._path)
        try:
            return Directory(os.path.dirname(real)).read(os.path.basename(real), now, most)
        except Missing as error:
            raise BadInput(str(error)) from error  # not a file that was listed and is gone

    def stamp(self, path: str) -> Hashable | None:
        return None


class Contents:
    """What a tree says, kept from look to look."""

    def __init__(
        self,
        tree: Tree,
        *,
        images_file: Path | None = None,
        image_roots: Sequence[Path] = (),
        anywhere: bool = False,
    ) -> None:
        """`anywhere`: that an image lies outside the tree and the `image_roots` is told as advice."""
        self._tree = tree
        self._image_roots = tuple(image_roots)
        self._anywhere = anywhere
        self._loader = Loader(tree)
        self._map_file = None if images_file is None else OneFile(images_file)
        self._map_loader = None
        if self._map_file is not None:
            self._map_loader = Loader(
                self._map_file, show=lambda _: shown(str(images_file)), header=MAP_HEADER
            )
        self._last: tuple[Assembler, SourceInfo, Desired] | None = None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Every document of the tree."""
        return self._loader.readings

    @property
    def blobs(self) -> dict[str, str]:
        """Git's ids of what the files of the tree held that have documents, by their paths."""
        return self._loader.blobs

    @property
    def needs(self) -> Needs:
        """The files of the tree that documents name."""
        return self._loader.needs

    @property
    def outside(self) -> tuple[Reading, ...]:
        """Every document of the image map beside the tree."""
        return () if self._map_loader is None else self._map_loader.readings

    @property
    def look(self) -> Look:
        """What was in the way of seeing the tree."""
        return self._loader.look

    def at(self, commit: str) -> None:
        """What is read from now on is of this commit."""
        self._loader.commit = commit

    def assembler(self, host: str) -> Assembler:
        """What puts these documents together for a host."""
        return Assembler(host, self._place, self._locate)

    def refresh(self, now: float) -> bool:
        """Look again at everything; False where nothing changed. Raises Moved."""
        changed = self._loader.refresh(now)
        if changed:
            self._last = None  # even if what follows raises
        if self._map_loader is not None:
            changed = self._map_loader.refresh(now) or changed
        return changed

    def desired(self, assembler: Assembler, source: SourceInfo, now: float) -> Desired:
        """What is wanted; the same object as the last time where nothing changed. Raises Moved."""
        if self.refresh(now):
            self._last = None
        last = self._last
        if last is not None and last[:2] == (assembler, source) and assembler.still_holds():
            return last[2]
        found = assembler.assemble(self.readings, self.outside)
        problems = [*self.look.problems, *found.problems]
        desired = Desired(
            source=source,
            vms=found.vms,
            jobs=found.jobs,
            problems=tuple(sorted(set(problems), key=_by_place)),
            advice=(*self.look.advice, *found.advice),
            unproven=self._unproven(assembler),
            labels=found.labels,
            images=found.images,
        )
        self._last = (assembler, source, desired)
        return desired

    def _unproven(self, assembler: Assembler) -> str | None:
        """Why the absence of a name proves nothing."""
        reasons = [_might_own(problem) for problem in self.look.problems]
        reasons += [
            _might_own(reading.problems[0])
            for reading in self.readings
            if reading.may_own_any_name and assembler.is_mine(reading)
        ]
        if not reasons and not self.readings:
            return (
                "the tree has no documents (an empty tree is taken for one that lost its files:"
                " `holdfast down` destroys what it had)"
            )
        if len(reasons) > 1:
            return f"{reasons[0]}, and {len(reasons) - 1} more like it"
        return reasons[0] if reasons else None

    def _loader_of(self, reading: Reading) -> Loader:
        if self._map_loader is not None and reading in self.outside:
            return self._map_loader
        return self._loader

    def _locate(self, reading: Reading, path: KeyPath, at_key: bool) -> tuple[int, int]:
        return self._loader_of(reading).locate(reading, path, at_key)

    def _place(self, reading: Reading) -> PlacedMap:
        document = reading.document
        assert isinstance(document, ImagesDocument)  # noqa: S101 - for the type only
        if self._map_file is not None and reading in self.outside:
            base: Path | None = self._map_file.directory
            roots: Iterable[Path | None] = (base, *self._image_roots)
        else:
            top = self._tree.directory
            base = None if top is None else top / os.path.dirname(reading.path)
            roots = (top, *self._image_roots)
        allowed = [root for root in roots if root is not None]
        sources: dict[str, str | Unusable] = {}
        outside: set[str] = set()
        for label, entry in document.images.items():
            try:
                sources[label] = placed(entry, base, allowed)
            except BadInput as error:
                if self._anywhere and isinstance(error, Outside):
                    sources[label] = error.url
                    outside.add(label)
                    continue
                sources[label] = Unusable(f"has a source that {error}")
        copies = _copies(document, base, allowed)
        return PlacedMap(str(reading.ref), document, sources, frozenset(outside), copies)


def _copies(
    document: ImagesDocument, base: Path | None, roots: Sequence[Path]
) -> dict[str, str | Unusable]:
    """Where copies of the images may lie that have a source beside it."""
    found: dict[str, str | Unusable] = {}
    for label, entry in document.images.items():
        if entry.source is not None and entry.local_path is not None:
            try:
                found[label] = local_path_of(entry, base, roots)
            except BadInput as error:
                found[label] = Unusable(str(error))
    return found


def _might_own(problem: Problem) -> str:
    if problem.file == ".":
        return "the tree cannot be read and might own any name"
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    return f"{place} cannot be read and might own any name"


def _by_place(problem: Problem) -> tuple[str, int, int, str]:
    return problem.file, problem.line, problem.column, problem.message
