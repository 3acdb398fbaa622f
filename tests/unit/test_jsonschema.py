"""The schema that editors get says what the documents' shapes accept, and what each change costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from state.spec.effects import IMAGE_EFFECTS, JOB_EFFECTS, VM_EFFECTS, Effect
from state.spec.images import TWO_SPELLINGS
from state.spec.jsonschema import DIALECT, schema
from state.spec.kinds import KINDS


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def properties(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = schema(kind)["properties"]
    return found


@pytest.mark.parametrize(("kind", "effects"), [("vm", VM_EFFECTS), ("job", JOB_EFFECTS)])
def test_every_field_says_its_effect(kind: str, effects: Mapping[str, Effect]) -> None:
    assert {key: field["x-effect"] for key, field in properties(kind).items()} == effects


def test_what_a_changed_job_means_is_said() -> None:
    assert "A changed spec is a new run" in schema("job")["description"]
    assert properties("job")["timeouts"]["default"] == {"silence": "10m", "total": "1h"}


def test_every_field_of_an_image_says_its_effect() -> None:
    entry = schema("images")["$defs"]["ImageEntry"]["properties"]
    for key, effect in IMAGE_EFFECTS.items():
        if key not in ("label", "digest"):
            assert entry[key]["x-effect"] == effect
    assert entry["sha256"]["x-effect"] == entry["sha512"]["x-effect"] == IMAGE_EFFECTS["digest"]
    assert entry["local_path"]["x-effect"] == IMAGE_EFFECTS["source"]
    size = schema("images")["$defs"]["SizePreset"]["properties"]
    for ours, theirs in TWO_SPELLINGS:
        assert size[ours]["x-effect"] == size[theirs]["x-effect"] == VM_EFFECTS[ours]


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_every_mapping_is_closed_and_every_field_is_described(kind: str | None) -> None:
    for node in nodes(schema(kind)):
        if "properties" in node and "description" in node:
            assert node["additionalProperties"] is False
            for key, field in node["properties"].items():
                assert field.get("description"), key
        if "patternProperties" in node:
            assert node["additionalProperties"] is False


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_no_field_is_ever_null_and_no_default_is_in_another_notation(kind: str | None) -> None:
    for node in nodes(schema(kind)):
        assert {"type": "null"} not in node.get("anyOf", [])
        assert "default" not in node or node["default"] is not None
        if node.get("type") == "string" and "pattern" in node and "default" in node:
            assert re.search(node["pattern"], node["default"])


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_every_reference_leads_somewhere(kind: str | None) -> None:
    made = schema(kind)
    assert made["$schema"] == DIALECT
    for node in nodes(made):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in made["$defs"]


def test_sizes_and_times_are_text_of_a_pattern() -> None:
    fields = properties("vm")
    assert (fields["memory"]["type"], fields["stop_timeout"]["type"]) == ("string", "string")
    assert re.search(fields["memory"]["pattern"], "512MiB")
    assert not re.search(fields["memory"]["pattern"], "512")
    assert fields["stop_timeout"]["default"] == "30s"


def test_the_schema_of_any_kind_chooses_by_kind() -> None:
    made = schema()
    assert made["properties"]["kind"]["enum"] == list(KINDS)
    assert [one["if"]["properties"]["kind"]["const"] for one in made["allOf"]] == list(KINDS)


def test_an_unknown_kind_has_no_schema() -> None:
    with pytest.raises(KeyError):
        schema("pod")
