"""The files that documents name relative to their own place: user-data as text, the files of jobs by their digests.

What was read of one is remembered with its stamp, so that it is read again only when it may have changed, however many
documents name it and however often they change. It keeps digests and texts in documents, never the bytes of files.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from agent.errors import BadInput, SourceChanged
from agent.source.tree import Content, Tree, shown
from state.ids import Digest
from state.spec.job import ATTACHMENT_LIMIT
from state.spec.resolved_job import Attachment
from state.spec.units import format_size
from state.spec.vm import USER_DATA_LIMIT


class Need(NamedTuple):
    """A file that a document names. `stamp`: None where there was none; `fresh`: whether it was too fresh for that to
    prove anything; `blob`: git's id of what it held, None where it could not be read."""

    stamp: Hashable | None
    fresh: bool = False
    blob: str | None = None


Needs = dict[str, Need]
"""By path."""


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A file as it was read at the moment `now`, None found where it is too large."""

    need: Need
    now: float
    found: Attachment | None


class Attachments:
    """Every file of a tree that a job names, read as seldom as its stamp allows."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: dict[str, _Hashed] = {}

    def find(self, path: str, now: float, needs: Needs) -> Attachment:
        """The file at `path` below the root, put down among `needs`. Raises BadInput."""
        stamp = self._tree.stamp(path)
        needs[path] = Need(stamp)
        known = self._known.get(path)
        if known is None or known.need.stamp != stamp or (known.need.fresh and known.now != now):
            self._known.pop(path, None)
            known = self._read(path, now)
            self._known[path] = known
        needs[path] = known.need
        if known.found is None:
            limit = format_size(ATTACHMENT_LIMIT)
            raise BadInput(f"it is larger than {limit}", hint="put it into the image")
        return known.found

    def forget_others(self, paths: Iterable[str]) -> None:
        """Remember nothing but what was read of these."""
        self._known = {path: self._known[path] for path in paths if path in self._known}

    def _read(self, path: str, now: float) -> _Hashed:
        content = self._tree.read(path, now, ATTACHMENT_LIMIT)
        if len(content.data) > ATTACHMENT_LIMIT:
            return _Hashed(Need(content.stamp, content.fresh), now, None)
        found = Attachment(path, _digest_of(content.data), len(content.data))
        return _Hashed(Need(content.stamp, content.fresh, content.blob), now, found)


class FilesBeside:
    """What one document's file may name, read for it; `needs` says then on which files it depends."""

    def __init__(self, tree: Tree, attachments: Attachments, document: str, now: float) -> None:
        self._tree = tree
        self._attachments = attachments
        self._document = document
        self._now = now
        self.needs: Needs = {}

    def user_data(self, relative: str) -> str:
        path = _joined(self._document, relative)
        self.needs[path] = Need(self._tree.stamp(path))
        found = self._tree.read(path, self._now)
        self.needs[path] = Need(found.stamp, found.fresh, found.blob)
        return _user_data(found)

    def attachment(self, relative: str) -> Attachment:
        return self._attachments.find(_joined(self._document, relative), self._now, self.needs)


def read_attachment(tree: Tree, path: str, digest: Digest) -> bytes:
    """The bytes of a file that was read as an attachment before. Raises SourceChanged where they are others now."""
    try:
        data = tree.read(path, 0.0, ATTACHMENT_LIMIT).data
    except BadInput as error:
        raise _changed(path, str(error)) from error
    if _digest_of(data) != digest:
        raise _changed(path, "it has changed")
    return data


def _changed(path: str, why: str) -> SourceChanged:
    hint = "the next look tells what is wanted now"
    return SourceChanged(f"reading {shown(path)} for a job: {why}", hint=hint)


def _digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def _joined(document: str, relative: str) -> str:
    """The path below the root that `relative` means in that document. Raises BadInput for one that leads outside."""
    if not relative.isprintable():
        raise BadInput("it has characters that do not print")
    if relative.startswith("/"):
        raise BadInput("it is absolute", hint="write it relative to this file")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(document), relative))
    if path in ("..", ".") or path.startswith("../"):
        raise BadInput("it leads outside the tree", hint="put the file into the tree")
    return path


def _user_data(content: Content) -> str:
    if len(content.data) > USER_DATA_LIMIT:
        raise BadInput("it is larger than 1MiB")
    try:
        text = content.data.decode()
    except UnicodeDecodeError:
        raise BadInput("it is not UTF-8", hint="save it as UTF-8") from None
    if "\0" in text:
        raise BadInput("it has a NUL character in it", hint="save it as UTF-8")
    return text
