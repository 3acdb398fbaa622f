"""What is wrong with a document, in sentences: each error of a shape, with its place and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from state.spec.words import did_you_mean, listed, quoted

Path = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of lists, from the document's root."""

Written = Callable[[Path], str | None]
"""How the scalar at a path is spelled in the text; None where that is unknown or no scalar."""

MOST_COMPLAINTS = 20
"""About one document: who has more of them to mend will look again anyway."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One error. It is about the key at `path` itself where `at_key`, else about its value; where the path leads to
    nothing, about the nearest mapping or list on the way."""

    path: Path
    message: str
    at_key: bool = False


def complaints(error: ValidationError, model: type[BaseModel], written: Written) -> list[Complaint]:
    """The errors of a document that does not have the shape of `model`, in the order of the model's fields; of very
    many only the first."""
    details = error.errors(include_url=False)[:MOST_COMPLAINTS]
    broken = {detail["loc"][:-1] for detail in details}
    return [
        _complaint(detail, model, written)
        for detail in details
        # a list is also counted without its broken items, which says nothing new
        if detail["type"] != "too_short" or detail["loc"] not in broken
    ]


def _complaint(detail: Any, model: type[BaseModel], written: Written) -> Complaint:
    path: Path = tuple(detail["loc"])
    context: dict[str, Any] = detail.get("ctx", {})
    at_key = bool(path) and path[-1] == "[key]"
    if at_key:
        path = path[:-1]
    match detail["type"]:
        case "extra_forbidden":
            known = _keys_at(model, path[:-1])
            key = quoted(path[-1])
            hint = did_you_mean(str(path[-1]), known)
            return Complaint(path, f"unknown key {key}{hint}", at_key=True)
        case "missing":
            return Complaint(path, f"key {quoted(path[-1])} is missing")
        case "wrong_at":
            return Complaint((*path, *context["path"]), context["message"])
        case "value_error":
            return Complaint(path, _about(path, str(context["error"])), at_key=at_key)
        case _:
            value = quoted(detail["input"])
            spelled = written(path)
            if spelled is not None and not at_key:
                value = quoted(spelled)
            sentence = _sentence(detail["type"], context, value, detail["input"])
            if sentence is None:
                sentence = f"{value} cannot be used: {detail['msg'].lower()}"
            return Complaint(path, _about(path, sentence), at_key=at_key)


def _about(path: Path, sentence: str) -> str:
    """`sentence` with the key that it is about, which the reader may not see at once in a long line."""
    keys = [str(part) for part in path if isinstance(part, str)]
    return f"`{keys[-1]}`: {sentence}" if keys else sentence


def _sentence(error: str, context: dict[str, Any], value: str, given: Any) -> str | None:  # noqa: C901
    match error:
        case "string_type":
            hint = "put it in quotes" if isinstance(given, bool | int | float) else "write text"
            return f"{value} is no text ({hint})"
        case "int_type" | "int_from_float" | "int_parsing":
            return (
                f"{value} is no whole number (write digits only, without quotes or leading zeros)"
            )
        case "bool_type":
            return f"{value} is neither true nor false (write one of them, without quotes)"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{value} is no mapping (write `key: value` pairs)"
        case "tuple_type" | "list_type":
            return f"{value} is no list (write `- item` lines or `[item, item]`)"
        case "literal_error":
            return f"{value} is not one of its values ({_choice(context, given)})"
        case "greater_than_equal":
            return f"{value} is too little (at least {context['ge']})"
        case "less_than_equal":
            return f"{value} is too much (at most {context['le']})"
        case "too_long" | "string_too_long":
            return f"it is too long (at most {context['max_length']})"
        case "too_short" | "string_too_short":
            return f"it is too short (at least {context['min_length']})"
        case _:
            return None


def _choice(context: dict[str, Any], given: Any) -> str:
    expected = str(context["expected"]).replace(" or ", ", ").replace("'", "")
    values = expected.split(", ")
    hint = "write " + listed(values)
    if isinstance(given, bool):
        return f"{hint}, never a bare true or false"
    return hint


def _keys_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that the model takes at `path`; none where there is no model."""
    kind: Any = model
    for part in path:
        if _is_model(kind):
            field = kind.model_fields.get(part)
            kind = None if field is None else field.annotation
        else:
            kind = _item(kind)
        kind = _plain(kind)
    return list(kind.model_fields) if _is_model(kind) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _item(kind: Any) -> Any:
    """What a list or mapping of this type holds."""
    arguments = [argument for argument in get_args(kind) if argument is not ...]
    return arguments[-1] if arguments else None


def _plain(kind: Any) -> Any:
    """The type without its annotations and without None."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next((one for one in get_args(kind) if one is not type(None)), None)
    return kind
