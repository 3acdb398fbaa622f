"""Sizes and times as fields of a document: text outside, bytes and seconds inside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from state.spec.document import between
from state.spec.units import (
    SIZE_PATTERN,
    TIME_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "examples": ["512MiB", "2GiB"]}),
]
"""Bytes; written and serialised as `512MiB`."""

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": TIME_PATTERN, "examples": ["90s", "10m"]}),
]
"""Seconds; written and serialised as `90s`."""

DAY = 86_400.0

Wait = Annotated[Duration, between(0.0, DAY, format_duration)]
BootTime = Annotated[Duration, between(1.0, DAY, format_duration)]
