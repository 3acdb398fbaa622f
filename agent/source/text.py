"""Bytes of a file to text: UTF-8 of bounded size, without characters that an editor would not show."""

from __future__ import annotations

import re

from agent.errors import BadInput

MOST_BYTES = 1 << 20
"""Of one file. A person never writes as much, and every byte of it is looked at before anything is believed."""
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
).search
"""Control characters, and the line breaks that YAML 1.1 knows and no editor shows as such."""


class Unreadable(BadInput):
    """A text is no YAML that can be read; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.line = line
        self.column = column


def decoded(data: bytes) -> str:
    """The text of a document file, without its byte order mark. Raises Unreadable."""
    if len(data) > MOST_BYTES:
        raise Unreadable(
            1, 1, "the file is larger than 1MiB", hint="split it, or put user-data into files"
        )
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable(1, 1, "the file is UTF-16", hint="save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig")
        place = _place(before, len(before))
        raise Unreadable(*place, "the file is not UTF-8 here", hint="save it as UTF-8") from error
    if (found := _FORBIDDEN(text)) is not None:
        raise Unreadable(
            *_place(text, found.start()),
            f"the character {found.group().encode('unicode_escape').decode()} is not allowed",
            hint="remove it, or save the file as UTF-8 if it is UTF-16",
        )
    return text


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
