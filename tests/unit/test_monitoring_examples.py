"""The examples for Prometheus and Grafana speak of figures that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.unit.test_export import JOB, VM, busy, page
from tests.unit.test_metrics import usage

EXAMPLES = Path(__file__).parents[2] / "examples" / "monitoring"
LABELS = {"instance", "job", "name", "phase", "le", "result", "disk", "kind", "reason"}


def expressions() -> Iterator[str]:
    rules: dict[str, Any] = YAML(typ="safe").load(EXAMPLES / "alerts.yml")
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("page", "ticket")
            yield rule["expr"]
    board = json.loads((EXAMPLES / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def told() -> set[str]:
    """The name of every series that an agent tells."""
    source = {"fetched_at": "2026-01-01T00:00:00Z"}
    found = page(
        VM, JOB, tally=busy(), used=usage(1, 5.0), agent={"source": source, "suspended_at": None}
    )
    names = {sample.name for family in found.values() for sample in family.samples}
    # What this guest does not tell of its memory.
    return names | {"holdfast_vm_guest_available_bytes", "holdfast_vm_guest_total_bytes"}


def test_every_figure_that_the_examples_ask_for_is_told() -> None:
    known, asked = told(), set()
    for expression in expressions():
        asked |= set(re.findall(r"\bholdfast_\w+", expression))
        for labels in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|=|!=)", labels)) <= LABELS
        assert expression.count("(") == expression.count(")")
    assert asked <= known
    assert len(asked) > 15


def test_promtool_finds_nothing() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    rules = EXAMPLES / "alerts.yml"
    done = subprocess.run(
        ["promtool", "check", "rules", rules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from agent.metrics import export
    from agent.metrics.tally import Tally
    from tests.unit.test_export import looked

    text = export.page("1", looked(VM, JOB), Tally(), {}, [])
    lint = ["promtool", "check", "metrics"]
    done = subprocess.run(lint, input=text.decode(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
