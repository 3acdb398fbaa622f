"""What every kind of document shares: strict shapes, the header, and the rules for names, labels and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema

from state.ids import Name
from state.spec.words import quoted

API = "holdfast/v1"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
LABEL_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"
HOST_PATTERN = r"^[A-Za-z0-9*?!._\[\]-]{1,253}$"

FewItems = Strict(False)
"""Marks a tuple: YAML has lists only, and a list is what it takes; its items stay strict."""


class Fits:
    """Marks a text that must match `pattern` from its first to its last character; `what` says in a message what it is
    no valid one of, and what to write."""

    def __init__(self, pattern: str, what: str) -> None:
        self._pattern = pattern
        self._match = re.compile(pattern.removeprefix("^").removesuffix("$")).fullmatch
        self._what = what

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], CoreSchema]
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self._pattern}

    def _check(self, value: str) -> str:
        if self._match(value) is None:
            raise ValueError(f"{quoted(value)} is no {self._what}")
        return value


def between(low: float, high: float, show: Callable[[Any], str]) -> AfterValidator:
    """Marks a number that lies in `low` to `high`, both of them allowed, and is shown by `show`."""

    def check(value: Any) -> Any:
        if not low <= value <= high:
            raise ValueError(f"{show(value)} is out of range (from {show(low)} to {show(high)})")
        return value

    return AfterValidator(check)


def wrong_at(message: str, *path: str | int) -> PydanticCustomError:
    """The error of a rule over several keys, to be shown at `path` below the model that raises it."""
    return PydanticCustomError("wrong_at", "{message}", {"message": message, "path": path})


NameText = Annotated[
    Name,
    Fits(NAME_PATTERN, "name (write 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end)"),
]
"""The name of a document."""

LabelText = Annotated[
    str,
    Fits(LABEL_PATTERN, "label (write letters, digits, `.`, `_` and `-`, at most 128)"),
]
"""A word of an image map: an image, an alias, a size."""

HostPattern = Annotated[
    str,
    Fits(HOST_PATTERN, "pattern for host names (write a name, `*` and `?` stand for any)"),
]

LabelKey = Annotated[
    str,
    Fits(
        r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$",
        "label key (write letters, digits, `.`, `_`, `/` and `-`, at most 63)",
    ),
]


def _label_value(value: str) -> str:
    if len(value) > 255 or not value.isprintable():
        raise ValueError(
            f"{quoted(value)} is no label value (write at most 255 printable characters)"
        )
    return value


LabelValue = Annotated[
    str, Field(json_schema_extra={"maxLength": 255}), AfterValidator(_label_value)
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]

FileBeside = Annotated[str, Field(min_length=1, max_length=4096)]
"""A file of the tree, relative to the document's own."""

Port = Annotated[int, Field(ge=1, le=65535)]


class Part(BaseModel):
    """A mapping in a document: unknown keys are errors, and nothing is converted into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Document(Part):
    """The header that every document starts with."""

    api: Literal["holdfast/v1"] = Field(description="The version of the document format.")
    kind: str = Field(description="What the document describes.")
    name: NameText = Field(
        description="Unique on one host: among its vms and jobs, or among its image maps."
    )
    hosts: Annotated[tuple[HostPattern, ...], FewItems] = Field(
        default=("*",),
        min_length=1,
        max_length=256,
        description="On which hosts the document applies: patterns of host names.",
    )
