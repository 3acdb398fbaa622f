"""Text to documents: YAML in one pass over the parser's events, with the line and column of whatever is wrong.

The only doorway to ruamel. It makes mappings, lists, text, numbers and booleans, and nothing that a text could name:
tags and merge keys are refused, aliases are bounded, a mapping says each key once, and no key is left without a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from agent.errors import BadInput
from agent.source.places import Places
from agent.source.scalars import meaning
from agent.source.text import Unreadable, decoded
from state.spec.complaints import Path
from state.spec.words import printable, quoted

try:
    from ruamel.yaml.cyaml import CParser  # type: ignore[attr-defined]
except ImportError:  # the C extension is missing; the slower parser gives the same events
    CParser = None

MOST_DOCUMENTS = 5_000
"""Of one file."""
MOST_NODES = 100_000
"""Of one document, each alias counted as what it stands for."""
MOST_ALIASES = 1_000
DEEPEST = 32
_MOST_FAULTS = 20

_FLOW_COLON = "found unexpected ':'"
"""What the C parser says of a colon in unquoted text within brackets, such as a URL: right in YAML 1.1, wrong in 1.2.
Only then the slower parser, which knows 1.2, is asked too."""
_MOST_SLOW = 1 << 17
"""Characters that the slower parser is asked to read: about half a second's work."""

_UNTEXTUAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]").search
"""What an escape in double quotes could still bring in."""

Value = str | int | float | bool | list["Value"] | dict[str, "Value"] | None
_Event = Any  # ruamel's events have no types


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that one document does wrong as YAML; `line` and `column` count from 1."""

    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a stream. With faults its value is only good for guessing what the document is about: a key that
    is given twice has None there."""

    index: int
    line: int
    column: int
    value: Value
    faults: tuple[Fault, ...]


def parse(data: bytes) -> list[YamlDocument]:
    """The documents of a file. Raises Unreadable where the text as a whole is not to be read."""
    return [
        YamlDocument(index, *composer.start, composer.value, tuple(composer.faults))
        for index, composer in enumerate(_read(data, recording=False))
    ]


def places(data: bytes) -> list[Places]:
    """The places of each document of a file that `parse` has read: a second pass, for when something is wrong. Raises
    Unreadable."""
    return [composer.places or Places() for composer in _read(data, recording=True)]


def load_mapping(data: bytes, name: str) -> dict[str, Value]:
    """The one mapping that a file such as a configuration holds; an empty one for an empty file. Raises BadInput, in
    which `name` is what the file is called."""
    try:
        documents = [one for one in parse(data) if one.value is not None]
    except Unreadable as error:
        raise BadInput(
            f"{name}:{error.line}:{error.column}: {error.message}", hint=error.hint
        ) from error
    if not documents:
        return {}
    first, *more = documents
    for fault in first.faults:
        raise BadInput(f"{name}:{fault.line}:{fault.column}: {fault.message}")
    if more or not isinstance(first.value, dict):
        raise BadInput(f"{name}: the file is not one mapping", hint="write `key: value` lines")
    return first.value


def _read(data: bytes, *, recording: bool) -> list[_Composer]:
    text = decoded(data)
    try:
        if CParser is not None:
            try:
                return _composed(_fast_events(text), recording)
            except MarkedYAMLError as error:
                if error.problem != _FLOW_COLON or len(text) > _MOST_SLOW:
                    raise
        return _composed(_slow_events(text), recording)
    except YAMLError as error:
        raise _unreadable(error) from error


def _composed(events: Iterator[_Event], recording: bool) -> list[_Composer]:
    found: list[_Composer] = []
    for event in events:
        if type(event) is DocumentStartEvent:
            if len(found) >= MOST_DOCUMENTS:
                raise _stop(event, f"the file has more than {MOST_DOCUMENTS} documents", "split it")
            composer = _Composer(events, Places() if recording else None)
            composer.compose()
            found.append(composer)
    return found


def _fast_events(text: str) -> Iterator[_Event]:
    parser = CParser(text)
    try:
        while True:
            event = parser.get_event()
            yield event
            if type(event) is StreamEndEvent:
                return
    finally:
        parser.dispose()


def _slow_events(text: str) -> Iterator[_Event]:
    yield from YAML(typ="safe", pure=True).parse(text)


def _unreadable(error: YAMLError) -> Unreadable:
    if not isinstance(error, MarkedYAMLError):
        return Unreadable(1, 1, f"this is not YAML: {printable(str(error))}")
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    began = ""
    if error.context and error.context_mark:
        began = f" {error.context} that began at line {error.context_mark.line + 1}"
    return Unreadable(
        line,
        column,
        f"this is not YAML: {printable(str(error.problem))}{began}",
        hint="indent with spaces, and quote text that holds `: ` or ` #`",
    )


_OPEN = object()
"""Stands for an anchor's value while that is still being read."""


class _Composer:
    """Makes the value of one document from its events."""

    def __init__(self, events: Iterator[_Event], found: Places | None) -> None:
        self._events = events
        self.places = found
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0
        self._aliases = 0
        self.start = (1, 1)
        self.value: Value = None
        self.faults: list[Fault] = []

    def compose(self) -> None:
        """Read up to the end of the document."""
        event = next(self._events)
        self.start = (event.start_mark.line + 1, event.start_mark.column + 1)
        self.value = self._value(event, (), 0)
        for event in self._events:
            if type(event) is DocumentEndEvent:
                return

    def _fault(self, event: _Event, message: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            mark = event.start_mark
            self.faults.append(Fault(mark.line + 1, mark.column + 1, message))

    def _count(self, event: _Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _stop(event, f"the document has more than {MOST_NODES} values", "split it")

    def _value(self, event: _Event, path: Path, depth: int) -> Value:
        if self.places is not None:
            self.places.values[path] = (event.start_mark.line + 1, event.start_mark.column + 1)
        kind = type(event)
        if kind is AliasEvent:
            return self._alias(event)
        self._count(event, 1)
        if event.tag is not None:
            tag = quoted(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._fault(event, f"tag {tag} is not supported (remove it)")
        anchor = event.anchor
        if kind is ScalarEvent:
            value = self._scalar(event, path)
            if anchor is not None:
                self._anchors[anchor] = (value, 1)
            return value
        if depth >= DEEPEST:
            raise _stop(event, f"values are nested deeper than {DEEPEST}", "no document needs that")
        before = self._nodes
        if anchor is not None:
            self._anchors[anchor] = (_OPEN, 0)
        made: Value = (
            self._mapping(path, depth) if kind is MappingStartEvent else self._list(path, depth)
        )
        if anchor is not None:
            self._anchors[anchor] = (made, self._nodes - before + 1)
        return made

    def _scalar(self, event: _Event, path: Path) -> Value:
        text: str = event.value
        if event.implicit[0]:
            if self.places is not None:
                self.places.spelled[path] = text
            return meaning(text)
        if _UNTEXTUAL(text):
            self._fault(event, "the text has a control character in it (remove it)")
        if self.places is not None:
            self.places.spelled[path] = f'"{text}"'
        return text

    def _alias(self, event: _Event) -> Value:
        name = quoted(event.anchor)
        value, nodes = self._anchors.get(event.anchor, (None, 0))
        if value is _OPEN:
            raise _stop(event, f"alias {name} stands inside what it stands for", "remove it")
        if not nodes:
            self._fault(event, f"alias {name} has no anchor before it (write the value out)")
            return ""
        self._aliases += 1
        if self._aliases > MOST_ALIASES:
            raise _stop(event, f"the document has more than {MOST_ALIASES} aliases", "use fewer")
        self._count(event, nodes)
        made: Value = value
        return made

    def _list(self, path: Path, depth: int) -> list[Value]:
        made: list[Value] = []
        for event in self._events:
            if type(event) is SequenceEndEvent:
                break
            below = path if self.places is None else (*path, len(made))
            value = self._value(event, below, depth + 1)
            if value is None:
                self._fault(event, "a list item has no value (write one, or remove the item)")
            made.append(value)
        return made

    def _mapping(self, path: Path, depth: int) -> dict[str, Value]:
        made: dict[str, Value] = {}
        first: dict[str, _Event] = {}
        for event in self._events:
            if type(event) is MappingEndEvent:
                break
            key = self._key(event, depth)
            below = path
            if self.places is not None:
                below = (*path, key)
                self.places.keys.setdefault(below, _at(event))
            after = next(self._events)
            value = self._value(after, below, depth + 1)
            if key in made:
                line, column = _at(first[key])
                self._fault(
                    event,
                    f"key {quoted(key)} is given twice, first at {line}:{column} (keep one)",
                )
                value = None
            elif value is None:
                self._fault(event, f"key {quoted(key)} has no value (write one, or remove the key)")
            first.setdefault(key, event)
            made[key] = value
        return made

    def _key(self, event: _Event, depth: int) -> str:
        scalar = type(event) is ScalarEvent
        if scalar and event.implicit[0] and event.value == "<<":
            self._fault(event, "merge keys (`<<`) are not supported (write the keys out)")
        here, self.places = self.places, None
        key = self._value(event, (), depth + 1)
        self.places = here
        if isinstance(key, str):
            return key
        spelled = event.value if scalar else key
        self._fault(event, f"key {quoted(spelled)} is no text (put it in quotes)")
        return str(event.value) if scalar else "?"


def _at(event: _Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _stop(event: _Event, message: str, hint: str) -> Unreadable:
    return Unreadable(*_at(event), message, hint=hint)
