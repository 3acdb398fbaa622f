"""Files of a guest as a document names them: one absolute path, or a pattern for many.

A pattern is a path in whose components `*`, `?` and `[...]` stand for characters, and in which a component `**` stands
for any number of components, also for none. It is kept so small that no way of matching it takes long.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from state.spec.words import quoted

LONGEST_PATH = 4095
LONGEST_COMPONENT = 255
"""Bytes, as Linux counts them: PATH_MAX without its NUL, and NAME_MAX."""

LONGEST_PATTERN = 1024
MOST_WILDCARDS = 16
MOST_DEPTHS = 2
"""Of one pattern: characters, wildcards of all sorts, and `**` among them, each of which multiplies what is tried."""

_piece = re.compile(
    r"[^*?\[\]\\]|\*|\?|(\[!?([^*?\[\]\\!^-](?:[^*?\[\]\\]*[^*?\[\]\\-])?)\])"
).match
"""A character, a wildcard, or a set. What shells and libraries read in different ways is in none of them: a backslash,
`[^`, and a set with `*`, `?`, a bracket, or a `-` at one of its ends."""
_span = re.compile(r"(?s)(.)-(.)").findall


def _components(value: str) -> list[str] | None:
    """None for what is no absolute path of a file: a relative one, one that ends in `/`, or one in a roundabout way."""
    root, *components = value.split("/")
    if root or not components or any(one in ("", ".", "..") for one in components):
        return None
    if not value.isprintable() or len(value.encode()) > LONGEST_PATH:
        return None
    if any(len(one.encode()) > LONGEST_COMPONENT for one in components):
        return None
    return components


def _guest_path(value: str) -> str:
    if _components(value) is None:
        raise ValueError(
            f"{quoted(value)} is no path of a file in the guest (write an absolute one, like"
            " /root/input.json, without `..` and without a `/` at its end)"
        )
    return value


def _guest_pattern(value: str) -> str:
    components = _components(value)
    if components is None or len(value) > LONGEST_PATTERN:
        raise ValueError(
            f"{quoted(value)} is no pattern for files in the guest (write an absolute path, like"
            " /root/report/*.xml, without `..` and without a `/` at its end)"
        )
    depths = components.count("**")
    wildcards = depths + sum(_wildcards(one, value) for one in components if one != "**")
    if wildcards > MOST_WILDCARDS or depths > MOST_DEPTHS:
        raise ValueError(
            f"{quoted(value)} has too many wildcards (at most {MOST_WILDCARDS}, and `**` at most"
            f" {MOST_DEPTHS} times: write several patterns)"
        )
    return value


def _wildcards(component: str, value: str) -> int:
    """How many wildcards a component has. Raises ValueError for one that can be read in several ways."""
    if "**" in component:
        raise ValueError(f"{quoted(value)} has `**` beside other characters (write `/**/`)")
    found = at = 0
    while at < len(component):
        piece = _piece(component, at)
        if piece is None or any(low > high for low, high in _span(piece.group(2) or "")):
            raise ValueError(
                f"{quoted(component[at:])} is not clear in a pattern (write `*`, `?`, or a set like"
                " `[0-9a-f]` or `[!0-9]`)"
            )
        found += len(piece.group()) > 1 or piece.group() in "*?"
        at = piece.end()
    return found


GuestPath = Annotated[
    str,
    AfterValidator(_guest_path),
    WithJsonSchema({"type": "string", "pattern": "^(/[^/]+)+$", "maxLength": LONGEST_PATH}),
]

GuestPattern = Annotated[
    str,
    AfterValidator(_guest_pattern),
    WithJsonSchema({"type": "string", "pattern": "^(/[^/]+)+$", "maxLength": LONGEST_PATTERN}),
]
