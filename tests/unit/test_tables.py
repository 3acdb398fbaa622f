"""`status` on screens of different widths: what stays away, and that what stays can be read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.cli.status import Looked, table
from agent.paths import StatePaths

ALL = ["NAME", "PHASE", "READY", "AGE", "RESTARTS", "PID", "IMAGE", "ACCEL", "SSH", "REASON"]
JOBS = ["JOB", "RUN", "PHASE", "ATTEMPT", "EXIT", "AGE", "TOOK", "SSH", "REASON"]
WAYS = {"ssh": {"host": "127.0.0.1", "port": 22000, "user": "debian"}, "pid": 1234567}


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "vm", "name": name, "phase": "running", "ready": True, "started_at": None,
        "restarts": 0, "image": "debian-12", "accel": "kvm", "reason": "Ready", "message": "",
    } | WAYS | more  # fmt: skip


def job(name: str) -> dict[str, Any]:
    return {
        "kind": "job", "name": name, "number": 12, "phase": "running", "attempt": 1,
        "exit_code": None, "queued_at": None, "started_at": None, "ended_at": None,
        "kept_until": None, "reason": "Running", "message": "",
    } | WAYS  # fmt: skip


def shown(width: int | None, *items: dict[str, Any], past: Any = ()) -> list[str]:
    found = {
        "agent": {"running": False, "suspended_at": None}, "items": list(items),
        "held": [], "errors": [], "waiting": [],
    }  # fmt: skip
    looked = Looked(found, StatePaths(Path("/srv/machines")), in_memory=False, past=list(past))
    file = io.StringIO()
    Console(width=width or 240, file=file).print(table(looked, width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_where_nothing_limits_it_every_column_is_there() -> None:
    lines = shown(None, vm("web"), job("tests"))
    assert lines[0].split() == ALL
    assert lines[2].split() == JOBS
    assert lines[1].split()[-5:] == ["ssh", "--state", "/srv/machines", "web", "Ready"]


@pytest.mark.parametrize(
    ("width", "without"),
    [(130, []), (100, ["SSH"]), (80, ["SSH"]), (62, ["SSH", "PID"]), (58, ["SSH", "PID", "ACCEL"])],
)
def test_columns_stay_away_the_least_needed_first(width: int, without: list[str]) -> None:
    """Sabotage: keep every column. At 80 columns REASON is then a column of single letters."""
    lines = shown(width, vm("web"))
    assert lines[0].split() == [one for one in ALL if one not in without]
    assert lines[1].split()[-1] == "Ready"
    assert ("ssh: holdfast ssh --state /srv/machines web" in lines) is bool(without)


def test_of_several_machines_the_way_in_is_told_once() -> None:
    lines = shown(80, vm("a"), vm("b"), job("tests"))
    told = [line for line in lines if line.startswith("ssh: ")]
    assert told == ["ssh: holdfast ssh --state /srv/machines NAME"]


def test_a_long_reason_is_folded_in_a_column_that_can_be_read() -> None:
    why = "memory 64GiB is more than this host has (32GiB): 2GiB of it are for the host itself"
    lines = shown(80, vm("web", phase="unresponsive", reason="NotEnoughMemory", message=why))
    assert max(map(len, lines[:-1])) <= 80
    assert lines[0].split() == [one for one in ALL if one not in ("SSH", "PID", "ACCEL")]
    assert any(line.endswith("NotEnoughMemory: memory") for line in lines)


def test_a_long_name_is_folded_and_the_phase_is_not() -> None:
    lines = shown(80, vm("w" * 63))
    assert max(map(len, lines[:-1])) <= 80
    assert "running" in lines[1]
    assert "".join(line.split()[0] for line in lines[1:-2]).count("w") == 63


def test_jobs_fit_too() -> None:
    assert shown(80, job("tests"))[0].split() == [one for one in JOBS if one != "SSH"]
    past = {
        "number": 1, "phase": "failed", "attempt": 1, "exit_code": 2, "run": "1" * 36,
        "queued_at": "2023-11-14T22:13:20.000Z", "started_at": None, "ended_at": None,
        "reason": "ScriptFailed", "message": "exit code 2", "kept_until": None,
    }  # fmt: skip
    [head] = [line for line in shown(80, job("tests"), past=[past]) if line.startswith("RUN")]
    assert head.split() == ["RUN", "PHASE", "EXIT", "QUEUED", "TOOK", "REASON"]
