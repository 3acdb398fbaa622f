"""Figures of use as people and programs read them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.metrics.figures import FIGURES, sparkline, told, written
from agent.paths import StatePaths
from state.ids import Uid
from state.ledger import Ledger
from state.metrics import Look, Metrics
from state.usage import Counters, Sample, rates
from tests.unit.test_commands import Call, caller
from tests.unit.test_metrics import BEGAN, look, usage

UID = Uid("00000000-0000-5000-8000-000000000001")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.123, "cores", "12%"),
        (3.5, "cores", "350%"),
        (1536, "bytes", "1.5KiB"),
        (0, "bytes", "0B"),
        (300 << 20, "bytes/s", "300MiB/s"),
        (1 << 40, "bytes", "1.0TiB"),
        (0.25, "1/s", "0.2/s"),
        (1234.6, "1/s", "1235/s"),
        (None, "cores", "-"),
    ],
)
def test_a_value_for_a_glance(value: float | None, unit: str, said: str) -> None:
    assert written(value, unit) == said


def test_a_course_is_drawn_from_nothing_to_the_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 9) == "▁▂▃▄▅▆▇██"
    assert sparkline([0, 0], 9) == "▁▁"
    assert sparkline([], 9) == ""
    assert sparkline([None, 5.0], 9) == " █"


def test_where_there_are_too_many_values_a_peak_is_not_lost() -> None:
    values: list[float | None] = [0.0] * 1000
    values[517] = 1.0
    assert sparkline(values, 10).count("█") == 1


@given(st.lists(st.none() | st.floats(0, 1e12), max_size=200), st.integers(1, 80))
def test_a_course_fits(values: list[float | None], width: int) -> None:
    assert len(sparkline(values, width)) == min(width, len(values))


def test_what_is_not_known_is_null_and_never_zero() -> None:
    before, after = (Sample(at, Counters(cpu), 1) for at, cpu in ((BEGAN, 1.0), (BEGAN + 4, 2.0)))
    [rate] = rates([before, after])
    found = told(UID, rate)
    assert (found["cpu"], found["seconds"]) == (0.25, 4.0)
    assert found["guest_total_bytes"] is None
    assert {figure.key for figure in FIGURES} < found.keys()


# Commands


@pytest.fixture
def holdfast(tmp_path: Path) -> Call:
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir(mode=0o700)
    Ledger(paths.database).close()
    return caller(tmp_path)


def plant(root: Path, looks: dict[float, list[Look]]) -> None:
    metrics = Metrics(StatePaths(root / "state").metrics)
    for at, of in sorted(looks.items()):
        metrics.add(at, of)
    metrics.close()


def test_before_anything_was_measured_that_is_said(holdfast: Call) -> None:
    for words in ("top", "metrics web"):
        done = holdfast(words)
        assert done.returncode == 1
        assert "no agent has measured anything yet (an agent measures every 10 s" in done.stderr


def test_a_name_that_was_never_measured_is_an_error(holdfast: Call, tmp_path: Path) -> None:
    plant(tmp_path, {BEGAN: [look(usage(1, 1.0))]})
    done = holdfast("metrics wbe")
    assert done.returncode == 1
    assert (
        "nothing was ever measured of `wbe` (`holdfast top` lists what is measured)" in done.stderr
    )


def test_what_is_long_past_is_told_of_when_asked_for(holdfast: Call, tmp_path: Path) -> None:
    plant(tmp_path, {BEGAN: [look(usage(1, 1.0))], BEGAN + 10: [look(usage(1, 2.0))]})
    assert "nothing was measured of web in that time" in holdfast("metrics web").stdout
    assert "nothing was measured lately" in holdfast("top").stdout
    found = json.loads(holdfast("metrics web --since 9999d -o json").stdout)
    assert [one["cpu"] for one in found["samples"]] == [0.1]
    assert found["samples"][0]["at"] == "2023-11-14T22:14:10.000Z"


@pytest.mark.parametrize(
    ("sort", "first"), [("cpu", "busy"), ("memory", "large"), ("name", "busy"), ("write", "large")]
)
def test_what_is_asked_for_comes_first(
    holdfast: Call, tmp_path: Path, sort: str, first: str
) -> None:
    now = time.time_ns() / 1e9
    other = Uid("00000000-0000-5000-8000-000000000002")
    gone = Uid("00000000-0000-5000-8000-000000000003")
    sweeps = {}
    for step in range(5):
        sweeps[now - 10 + step] = [
            look(usage(1, step, 0, 1 << 20), UID, "busy"),
            look(usage(2, 0.0, step << 20, 1 << 30), other, "large"),
            *[look(usage(3, step * 5.0), gone, "gone")] * (step < 2),
        ]
    plant(tmp_path, sweeps)
    found: list[dict[str, Any]] = json.loads(holdfast(f"top --sort {sort} -o json").stdout)
    assert {one["name"] for one in found} == {"busy", "large"}
    assert found[0]["name"] == first


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("--metrics-raw 1m", "1m is too short (say 2m at least)"),
        ("--metrics-minutes 1h", "1h is too short (say 2h at least)"),
        ("--metrics-hours forever", "`forever` is no"),
    ],
)
def test_what_is_kept_too_shortly_to_make_the_next_of_it_is_refused(
    holdfast: Call, said: str, why: str
) -> None:
    done = holdfast(f"run --once --hypervisor memory --desired . {said}")
    assert done.returncode == 64
    assert why in done.stderr
