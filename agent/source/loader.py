"""Keeps the documents of a tree read: a file is opened again only when it may have changed.

It answers *what documents are there*, one file at a time; what they say together is for `agent.source.assemble`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from agent.errors import BadInput
from agent.source.beside import Attachments, FilesBeside, Needs
from agent.source.documents import File, Reading, read_documents, unreadable
from agent.source.places import Places
from agent.source.tree import Entry, Look, Missing, Moved, Tree, shown
from agent.source.yaml import Value, places
from state.spec.complaints import Path

_TRIES = 3


@dataclass(slots=True, eq=False)
class _Record:
    """What was read of one file, and of which content; `blob` is git's id of that. `needs` are the other files that its
    documents name."""

    stamp: Hashable
    fresh: bool
    digest: bytes
    readings: tuple[Reading, ...]
    needs: Needs = field(default_factory=dict)
    blob: str = ""


class Loader:
    """The documents of one tree, from look to look."""

    def __init__(
        self,
        tree: Tree,
        *,
        show: Callable[[str], str] = shown,
        header: Mapping[str, Value] | None = None,
    ) -> None:
        self._tree = tree
        self._attachments = Attachments(tree)
        self._located: tuple[str, list[Places]] = ("", [])
        self._show = show
        self._header = header
        self._records: dict[str, _Record] = {}
        self._look: Look | None = None
        self._settled: tuple[Entry, ...] | None = None
        """The entries of the last look, if all that was read of them holds as long as they do."""
        self._stamps: dict[str, Hashable | None] = {}
        self.readings: tuple[Reading, ...] = ()
        self.commit: str | None = None
        """The commit that files are of which are read from now on."""

    @property
    def look(self) -> Look:
        """What the last look saw."""
        return self._look or Look()

    def refresh(self, now: float) -> bool:
        """Look again; `readings` holds every document from then on. False where nothing changed since the last time.

        Raises Moved when the tree does not hold still.
        """
        for _ in range(_TRIES):
            try:
                return self._refresh(now)
            except Missing:  # a listed file is gone: what was listed is no moment's truth
                continue
        raise Moved

    @property
    def blobs(self) -> dict[str, str]:
        """Git's ids of what the files held, by their paths; empty for one that could not be read."""
        return {path: record.blob for path, record in self._records.items()}

    @property
    def needs(self) -> Needs:
        """The files that documents name."""
        return {path: need for one in self._records.values() for path, need in one.needs.items()}

    def locate(self, reading: Reading, path: Path, at_key: bool = False) -> tuple[int, int]:
        """Line and column of a value of a document that was read; the document's start where its text changed since.

        The text is read and parsed again. Who asks for many places asks file by file: the last file is remembered.
        """
        key = (path, at_key)
        if key not in reading.located:
            if self._located[0] != reading.path:
                self._located = (reading.path, self._places(reading.path))
            found = self._located[1]
            place = found[reading.index].find(path, at_key=at_key) if found else None
            reading.located[key] = place or (reading.ref.line, 1)
        return reading.located[key]

    def _places(self, path: str) -> list[Places]:
        try:
            data = self._tree.read(path, 0.0).data
            return places(data) if _digest(data) == self._records[path].digest else []
        except BadInput:
            return []

    def _refresh(self, now: float) -> bool:
        look = self._tree.look(now)
        self._stamps = {}
        self._located = ("", [])
        changed = look.entries != self._settled and self._take_in(look.entries, now)
        before, self._look = self._look, replace(look, entries=())
        if changed or before is None:
            return True
        return (before.problems, before.advice) != (look.problems, look.advice)

    def _take_in(self, entries: tuple[Entry, ...], now: float) -> bool:
        """Read what may have changed; whether something has. Raises Missing."""
        old = self._records
        changed, settled = len(entries) != len(old), True
        records: dict[str, _Record] = {}
        for entry in entries:
            before = old.get(entry.path)
            if before is not None and self._is_current(before, entry):
                records[entry.path] = before
                settled = settled and not before.needs
                continue
            settled = False
            record = self._read(entry, before, now)
            records[entry.path] = record
            changed = changed or record is not before
        self._records = records
        self._settled = entries if settled else None
        if changed:
            self.readings = tuple(
                reading for record in records.values() for reading in record.readings
            )
            self._attachments.forget_others(
                {path for one in records.values() for path in one.needs}
            )
        return changed

    def _is_current(self, record: _Record, entry: Entry) -> bool:
        return record.stamp == entry.stamp and not record.fresh and self._needs_hold(record)

    def _needs_hold(self, record: _Record) -> bool:
        for path, need in record.needs.items():
            if path not in self._stamps:
                self._stamps[path] = self._tree.stamp(path)
            if need.fresh or self._stamps[path] != need.stamp:
                return False
        return True

    def _read(self, entry: Entry, before: _Record | None, now: float) -> _Record:
        """The record of a file: that of before where the content proves to be the same. Raises Missing."""
        file = File(entry.path, self._show(entry.path), self._header, self.commit)
        try:
            content = self._tree.read(entry.path, now)
        except Missing:
            raise
        except BadInput as error:
            reading = unreadable(file, f"the file cannot be used: {error}")
            if before is not None and before.readings and _same(before.readings[0], reading):
                return before
            return _Record(None, True, b"", (reading,))
        digest = _digest(content.data)
        if before is not None and before.digest == digest and self._needs_hold(before):
            before.stamp, before.fresh = content.stamp, content.fresh
            return before
        beside = FilesBeside(self._tree, self._attachments, entry.path, now)
        readings = read_documents(file, content.data, beside)
        needs = beside.needs
        return _Record(content.stamp, content.fresh, digest, readings, needs, content.blob)


def _same(one: Reading, other: Reading) -> bool:
    return one.problems == other.problems


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
