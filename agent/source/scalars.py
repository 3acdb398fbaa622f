"""What an unquoted word in YAML means: the core schema of YAML 1.2, and text wherever that would be a surprise.

`no`, `on`, `2222:22` and `2024-01-01` are text, as in the core schema. Beyond it, what people and programs read in more
than one way stays text too, so that the shape of the document refuses it and quotes it as it was written: digits after
a leading zero (`0755`), numbers too long for 64 bits, infinity and what is no number.
"""

from __future__ import annotations

import re

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})").fullmatch
_BASED = re.compile(r"0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}").fullmatch
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]{1,17}|(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,17})?)(?:[eE][-+]?[0-9]{1,2})?"
).fullmatch
_OTHER_STARTS = frozenset("0123456789+-.~nNtTfF")


def meaning(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar."""
    if text and text[0] not in _OTHER_STARTS:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _DECIMAL(text):
        return int(text)
    if _BASED(text):
        return int(text, 0)
    if _FLOAT(text):
        return float(text)
    return text
