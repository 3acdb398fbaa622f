"""One file's content to documents: each has the shape of its kind or a list of what is wrong with it.

Each document stands alone here; what several of them say together is for `agent.source.assemble`. Whatever a text
holds, the answer is documents and problems: no content makes this raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pydantic import ValidationError

from agent.errors import BadInput
from agent.source.places import Places
from agent.source.text import Unreadable
from agent.source.yaml import Value, YamlDocument, parse, places
from state.desired import Problem, SourceRef
from state.ids import Name
from state.spec.complaints import MOST_COMPLAINTS, Path, complaints
from state.spec.document import API, HOST_PATTERN, NAME_PATTERN, Document
from state.spec.job import ATTACHMENTS_LIMIT, JobDocument
from state.spec.kinds import KINDS, OWNERS
from state.spec.resolved_job import Attachment
from state.spec.units import format_size
from state.spec.vm import VmDocument
from state.spec.words import did_you_mean, quoted

T = TypeVar("T")


class Beside(Protocol):
    """The files that a document names relative to its own place."""

    def user_data(self, relative: str) -> str:
        """The text of a file. Raises BadInput."""

    def attachment(self, relative: str) -> Attachment:
        """What a file holds, as a digest. Raises BadInput."""


_is_name = re.compile(NAME_PATTERN.removeprefix("^").removesuffix("$")).fullmatch
_is_host = re.compile(HOST_PATTERN.removeprefix("^").removesuffix("$")).fullmatch


@dataclass(slots=True, eq=False)
class Reading:
    """One document as it was read.

    `kind`, `name` and `hosts` are what the text certainly says, None where it does not: a document that fails can still
    tell which name it concerns. `document` is None exactly when there are problems. `user_data` and `attachments` (by
    how the document names them) are what lies in files beside it. `path` and `index` find its text again, `located`
    remembers what was looked up there.
    """

    path: str
    index: int
    ref: SourceRef
    kind: str | None = None
    name: Name | None = None
    hosts: tuple[str, ...] | None = None
    document: Document | None = None
    user_data: str | None = None
    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    located: dict[tuple[Path, bool], tuple[int, int]] = field(default_factory=dict)

    @property
    def owner(self) -> Name | None:
        """The name of the vm or job that this is certainly about, if it is about one."""
        return self.name if self.may_own else None

    @property
    def may_own(self) -> bool:
        """Whether this could be the document of a vm or job, for all that can be read of it."""
        return self.kind is None or self.kind in OWNERS

    @property
    def may_own_any_name(self) -> bool:
        """Whether this could be the document of any vm or job, for all that can be read of it."""
        return bool(self.problems) and self.name is None and self.may_own


@dataclass(frozen=True, slots=True)
class File:
    """Where a text came from: its path, how messages show that, and what its documents may leave out. `commit`: the
    one that it was read from."""

    path: str
    shown: str
    header: Mapping[str, Value] | None = None
    commit: str | None = None


def read_documents(file: File, data: bytes, beside: Beside) -> tuple[Reading, ...]:
    """The documents of a file in their order. A file that is no YAML is one document that may own any name, and so is
    an empty one: a crash or a full disk leaves it so, and nobody who wants a machine gone empties its file."""
    if not data.strip():
        return (unreadable(file, _EMPTY, 1, 1),)
    try:
        found = parse(data)
    except Unreadable as error:
        return (unreadable(file, str(error), error.line, error.column),)
    text = _Text(data)
    return tuple(
        _read(file, text, document, beside) for document in found if document.value is not None
    )


_EMPTY = "the file is empty (write a document into it, or remove it)"


def unreadable(file: File, message: str, line: int = 0, column: int = 0) -> Reading:
    """What stands for a file that cannot be read as documents."""
    kind = "images" if file.header else None
    problem = Problem(file.shown, line, column, message, kind=kind)
    ref = SourceRef(file.shown, 1, file.commit)
    return Reading(file.path, 0, ref, kind=kind, problems=(problem,))


class _Text:
    """The text of a file, looked through for places once, and only if something is wrong."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._places: list[Places] = []

    def places(self, index: int) -> Places:
        if not self._places:
            self._places = places(self._data)
        return self._places[index]


def _read(file: File, text: _Text, found: YamlDocument, beside: Beside) -> Reading:
    ref = SourceRef(file.shown, found.line, file.commit)
    reading = Reading(file.path, found.index, ref)
    value = found.value
    if file.header and isinstance(value, dict):
        value = {**file.header, **value}
    if isinstance(value, dict):
        reading.kind, reading.name, reading.hosts = _kind(value), _name(value), _hosts(value)
    if found.faults:
        _complain(reading, [(fault.line, fault.column, fault.message) for fault in found.faults])
    elif not isinstance(value, dict):
        what = quoted(value)
        message = f"{what} is no document (a document is a mapping that begins with `api: {API}`)"
        _complain(reading, [(found.line, found.column, message)])
    elif (wrong := _wrong_header(value)) is not None:
        key, message = wrong
        line, column = text.places(found.index).find((key,))
        _complain(reading, [(line, column, message)])
    else:
        _validate(reading, text, value, beside)
    return reading


def _complain(reading: Reading, found: list[tuple[int, int, str]]) -> None:
    reading.document = None
    reading.problems += tuple(
        Problem(reading.ref.file, line, column, message, name=reading.owner, kind=reading.kind)
        for line, column, message in sorted(found)
    )


def _kind(value: Mapping[str, Value]) -> str | None:
    """The kind that a document certainly has. One that is not known may be a misspelt `vm`."""
    kind = value.get("kind")
    return kind if isinstance(kind, str) and kind in KINDS else None


def _name(value: Mapping[str, Value]) -> Name | None:
    name = value.get("name")
    return Name(name) if isinstance(name, str) and _is_name(name) else None


def _hosts(value: Mapping[str, Value]) -> tuple[str, ...] | None:
    if "hosts" not in value:
        return ("*",)
    hosts = value["hosts"]
    if not isinstance(hosts, list) or not hosts:
        return None
    patterns = tuple(host for host in hosts if isinstance(host, str) and _is_host(host))
    return patterns if len(patterns) == len(hosts) else None


def _wrong_header(value: Mapping[str, Value]) -> tuple[str, str] | None:
    """The header key that is wrong, and how; None where the header says which shape the document must have."""
    api, kind = value.get("api"), value.get("kind")
    if api != API:
        if "api" in value:
            return "api", f"api {quoted(api)} is not known to this version (write `api: {API}`)"
        hint = f"begin with `api: {API}`, or name the file in .holdfastignore if it is no document"
        return "api", f"key `api` is missing ({hint})"
    if "kind" not in value:
        return "kind", f"key `kind` is missing (known: {', '.join(KINDS)})"
    if not isinstance(kind, str):
        return "kind", f"kind {quoted(kind)} is no text (known: {', '.join(KINDS)})"
    if kind not in KINDS:
        return "kind", f"kind {quoted(kind)} is not known{did_you_mean(kind, KINDS)}"
    return None


def _validate(reading: Reading, text: _Text, value: Mapping[str, Value], beside: Beside) -> None:
    model = KINDS[reading.kind or ""]
    try:
        reading.document = model.model_validate(value)
    except ValidationError as error:
        where = text.places(reading.index)
        found = []
        for complaint in complaints(error, model, where.spelled.get):
            line, column = where.find(complaint.path, at_key=complaint.at_key)
            found.append((line, column, complaint.message))
        _complain(reading, found)
        return
    _read_beside(reading, text, beside)


def _read_beside(reading: Reading, text: _Text, beside: Beside) -> None:
    """Read what a document names, or complain of what it names."""
    wrong: list[tuple[int, int, str]] = []

    def read(path: Path, relative: str, reader: Callable[[str], T]) -> T | None:
        try:
            return reader(relative)
        except BadInput as error:
            line, column = text.places(reading.index).find(path)
            message = f"`{path[-1]}`: {quoted(relative)} cannot be used: {error}"
            wrong.append((line, column, message))
            return None

    document = reading.document
    if isinstance(document, VmDocument) and document.user_data_file is not None:
        reading.user_data = read(("user_data_file",), document.user_data_file, beside.user_data)
    if isinstance(document, JobDocument):
        found: dict[str, Attachment | None] = {}
        if (script := document.script_file) is not None:
            found[script] = read(("script_file",), script, lambda name: _script(name, beside))
        for index, file in enumerate(document.files):
            if file.source not in found:
                found[file.source] = read(
                    ("files", index, "source"), file.source, beside.attachment
                )
        reading.attachments = {name: one for name, one in found.items() if one is not None}
        if (too_much := _too_much(document, reading.attachments)) is not None:
            limit = format_size(ATTACHMENTS_LIMIT)
            message = (
                f"with this one its files are more than {limit} in all (put them into the image)"
            )
            line, column = text.places(reading.index).find(("files", too_much, "source"))
            wrong.append((line, column, message))
    if wrong:
        _complain(reading, wrong[:MOST_COMPLAINTS])


def _too_much(document: JobDocument, attachments: Mapping[str, Attachment]) -> int | None:
    """The first of its `files` for which there is no room with those before it."""
    sizes = {name: one.size for name, one in attachments.items()}
    total = sizes.get(document.script_file or "", 0)
    for index, file in enumerate(document.files):
        total += sizes.get(file.source, 0)
        if total > ATTACHMENTS_LIMIT:
            return index
    return None


def _script(relative: str, beside: Beside) -> Attachment:
    """A script of no bytes succeeds at nothing, and is what a full disk or half of a save leaves. Raises BadInput."""
    script = beside.attachment(relative)
    if not script.size:
        raise BadInput("it is empty", hint="write the script into it")
    return script
