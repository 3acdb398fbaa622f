"""JSON Schema (draft 2020-12) of documents, for editors; it says of every field what a change of it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from state.spec.effects import IMAGE_EFFECTS, JOB_EFFECTS, VM_EFFECTS, Effect
from state.spec.images import TWO_SPELLINGS
from state.spec.kinds import KINDS
from state.spec.units import SIZE_PATTERN, TIME_PATTERN, format_duration, format_size

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_IMAGE_KEYS = {
    "local_path": "source",
    "sha256": "digest",
    "sha512": "digest",
    **{theirs: ours for ours, theirs in TWO_SPELLINGS},
}
"""Keys of an image map that act through another field of what they resolve to."""

_NOTATIONS: Mapping[Any, Callable[[Any], str]] = {
    TIME_PATTERN: format_duration,
    SIZE_PATTERN: format_size,
}
"""How a default is written whose field has that pattern."""
_EFFECTS: Mapping[str, Mapping[str, Effect]] = {"vm": VM_EFFECTS, "job": JOB_EFFECTS}


def schema(kind: str | None = None) -> dict[str, Any]:
    """The schema of one kind, or with None one that accepts a document of any kind. Raises KeyError for a kind that
    this version does not read."""
    if kind is not None:
        return {"$schema": DIALECT, **_schema_of(kind)}
    definitions: dict[str, Any] = {}
    for name in KINDS:
        one = _schema_of(name)
        definitions |= one.pop("$defs", {})
        definitions[name] = one
    return {
        "$schema": DIALECT,
        "title": "holdfast document",
        "type": "object",
        "required": ["api", "kind", "name"],
        "properties": {"kind": {"enum": list(KINDS)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for name in KINDS
        ],
        "$defs": definitions,
    }


def _schema_of(kind: str) -> dict[str, Any]:
    made = _tidied(KINDS[kind].model_json_schema())
    _tell_effects(made["properties"], _EFFECTS.get(kind, {}))
    if kind == "images":
        _tell_effects(made["$defs"]["ImageEntry"]["properties"], IMAGE_EFFECTS)
        _tell_effects(made["$defs"]["SizePreset"]["properties"], VM_EFFECTS)
    return dict(made)


def _tell_effects(properties: dict[str, Any], effects: Mapping[str, Effect]) -> None:
    """What the documents of a map say acts through the specs that use it, so a key of no effect of its own has none."""
    for key, field in properties.items():
        field["x-effect"] = str(effects.get(_IMAGE_KEYS.get(key, key), Effect.NONE))


def _tidied(node: Any) -> Any:
    """Without titles made from names, and without null: a key is left out, never empty."""
    if isinstance(node, list):
        return [_tidied(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _tidied(value) for key, value in node.items() if not _is_made_up(key, value)}
    if "anyOf" in made and {"type": "null"} in made["anyOf"]:
        [kept] = [one for one in made.pop("anyOf") if one != {"type": "null"}]
        made = {**kept, **made}
    if "patternProperties" in made:
        made["additionalProperties"] = False
    if made.get("default", ...) is None:
        del made["default"]
    elif isinstance(made.get("default"), dict):
        made["default"] = {key: one for key, one in made["default"].items() if one is not None}
    show = _NOTATIONS.get(made.get("pattern"))
    if show is not None and "default" in made:
        made["default"] = show(made["default"])
    return made


def _is_made_up(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str) and value not in KINDS
