"""The `status -o json` shape: exactly as the contract has it, and true of machines that nobody keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from agent.paths import StatePaths
from agent.statedir import UNSEEN
from agent.status import status
from state.clock import stamp
from state.desired import SourceInfo, SourceRef
from state.history import Finding
from state.ids import Name
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import Instance
from state.records import SOURCE_KEY
from state.spec.resolved import Forward
from tests.builders import IMAGE, instance, process, running, vm

WEB = Name("web")
READY = Finding("kept", "Ready", "it answers over SSH", "vm", WEB, "web.yaml", 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db", sockets=Path("/run/holdfast"))) as opened:
        yield opened


def told(
    ledger: Ledger,
    *instances: Instance,
    findings: Iterable[Finding] = (),
    alive: Callable[[Instance], bool] = lambda _: True,
    agent_pid: int | None = 77,
) -> dict[str, Any]:
    with ledger.transaction() as change:
        for one in instances:
            change.put_instance(one)
        for number, finding in enumerate(findings):
            scoped = finding.scope in ("kept", "waiting", "holding", "acting")
            change.put_finding(f"vm/{finding.name}" if scoped else f"other/{number}", finding)
    found = status(ledger.reader, StatePaths(Path("/state")), agent_pid=agent_pid, alive=alive)
    return dict(json.loads(json.dumps(found)))


def test_an_agent_that_cannot_be_seen_runs_and_has_no_pid(ledger: Ledger) -> None:
    agent = told(ledger, agent_pid=UNSEEN)["agent"]
    assert (agent["running"], agent["pid"]) == (True, None)


def item(*args: Any, **more: Any) -> dict[str, Any]:
    """The one item, but for its conditions."""
    [found] = told(*args, **more)["items"]
    return {key: value for key, value in found.items() if key != "conditions"}


@pytest.mark.parametrize(
    ("scope", "reason", "ready", "moving", "stalled"),
    [
        ("kept", "Ready", True, False, False),
        ("kept", "Booting", False, True, False),
        ("acting", "Update", True, True, False),
        ("waiting", "BackOff", True, True, False),
        ("waiting", "PortTaken", True, False, True),
        ("waiting", "ApprovalNeeded", True, False, True),
        ("holding", "InvalidDocument", True, False, True),
        ("holding", "Suspended", True, False, True),
    ],
)
def test_conditions_say_whether_it_is_well_moves_or_needs_somebody(
    ledger: Ledger, scope: str, reason: str, ready: bool, moving: bool, stalled: bool
) -> None:
    one = running(ready_at=1.0 if ready else None)
    said = Finding(scope, reason, "so it is", "vm", WEB, "web.yaml", 1, since=1_700_000_000.0)
    with ledger.transaction() as change:
        source = SourceInfo("git", "https://example/x.git", "d" * 40)
        change.put_meta(SOURCE_KEY, json.dumps(asdict(source)))
    [found] = told(ledger, one, findings=[said])["items"]
    assert {each["type"]: each["status"] for each in found["conditions"]} == {
        "Ready": ready,
        "Reconciling": moving,
        "Stalled": stalled,
    }
    for each in found["conditions"]:
        assert (each["reason"], each["message"]) == (found["reason"], found["message"])
        assert (each["commit"], each["since"]) == ("d" * 40, "2023-11-14T22:13:20.000Z")


def test_a_running_machine_has_every_field_of_the_contract(ledger: Ledger) -> None:
    spec = vm(ports=(Forward(8080, 80),), labels=(("tier", "edge"),))
    one = running(spec, accelerator="kvm", source=SourceRef("vms/web.yaml", 1, "c" * 40))
    assert item(ledger, one, findings=[READY]) == {
        "kind": "vm",
        "name": "web",
        "generation": 1,
        "uid": one.uid,
        "phase": "running",
        "ready": True,
        "reason": "Ready",
        "message": "it answers over SSH",
        "pid": 4242,
        "qmp": f"/run/holdfast/{one.uid}/qmp",
        "image": "debian-12",
        "accel": "kvm",
        "labels": {"tier": "edge"},
        "ssh": {"host": "127.0.0.1", "port": 22000, "user": "root"},
        "ports": [{"address": "127.0.0.1", "host": 8080, "guest": 80}],
        "spec_digest": spec.digest,
        "source": {"file": "vms/web.yaml", "line": 1, "commit": "c" * 40},
        "started_at": "2023-11-14T22:29:50.000Z",
        "restarts": 0,
    }


def test_a_name_without_an_instance_has_the_same_fields(ledger: Ledger) -> None:
    waits = Finding("waiting", "PortTaken", "nginx has it", "vm", WEB, "web.yaml", 1)
    found = item(ledger, findings=[waits])
    assert found == {
        "kind": "vm", "name": "web", "generation": None, "uid": None, "phase": "pending",
        "ready": False, "reason": "PortTaken", "message": "nginx has it", "pid": None,
        "qmp": None, "image": None, "accel": None, "labels": {}, "ssh": None, "ports": [],
        "spec_digest": None, "source": {"file": "web.yaml", "line": 1, "commit": None},
        "started_at": None, "restarts": 0,
    }  # fmt: skip
    assert found.keys() == item(ledger, running()).keys()


def test_the_whole_has_every_part_of_the_contract(ledger: Ledger) -> None:
    info = SourceInfo("git", "https://example/x.git", "c" * 40)
    with ledger.transaction() as change:
        change.put_meta(SOURCE_KEY, json.dumps(asdict(info)))
    held = Finding("held", "InvalidDocument", "it is broken", "vm", Name("db"), "db.yaml", 7, 3)
    found = told(
        ledger,
        findings=[
            held,
            Finding("holding", "InvalidDocument", "db.yaml:7:3: it is broken", "vm", Name("db")),
            Finding("error", "InvalidDocument", "no name", None, None, "x.yaml", 2, 1),
            Finding("waiting", "DependsOn", "db is not ready", "vm", Name("api")),
            Finding("advice", "Advice", "it is not pinned", None, None, "images.yaml", 4),
        ],
    )
    assert found["agent"] == {
        "running": True,
        "pid": 77,
        "source": {
            "kind": "git", "location": "https://example/x.git", "commit": "c" * 40,
            "fetched_at": None, "error": None, "refused": None, "dirty": None,
        },
        "suspended_at": None,
        "status_ref": None,
    }  # fmt: skip
    assert [one["name"] for one in found["items"]] == ["api"]
    assert found["held"] == [
        {"name": "db", "file": "db.yaml", "line": 7, "column": 3, "message": "it is broken"}
    ]
    assert found["errors"] == [
        {"name": None, "file": "x.yaml", "line": 2, "column": 1, "message": "no name"}
    ]
    assert sorted(one["name"] for one in found["waiting"]) == ["api", "db"]
    assert {"name": "api", "reason": "DependsOn", "message": "db is not ready"} in found["waiting"]
    assert [one["message"] for one in found["advice"]] == ["it is not pinned"]


def test_without_an_agent_and_before_its_first_pass(ledger: Ledger) -> None:
    found = told(ledger, agent_pid=None)
    assert found["agent"] == {
        "running": False,
        "pid": None,
        "source": None,
        "suspended_at": None,
        "status_ref": None,
    }
    assert found["items"] == []
    one = item(ledger, running(), agent_pid=None)
    assert (one["reason"], one["message"]) == ("Unknown", "no agent has looked at it yet")


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STARTING])
def test_a_machine_that_is_gone_and_that_nobody_saw_to_is_told_as_crashed(
    ledger: Ledger, phase: Phase
) -> None:
    found = item(ledger, running(phase=phase), findings=[READY], alive=lambda _: False)
    assert (found["phase"], found["ready"], found["pid"]) == ("crashed", False, None)
    if phase is Phase.RUNNING:
        assert found["reason"] == "Gone"
        assert found["message"] == "its process is gone, and no agent has seen to it yet"


@pytest.mark.parametrize(
    ("reason", "phase", "ready"),
    [("Ready", "running", True), ("Unresponsive", "unresponsive", False),
     ("IOError", "running", False),
     ("Paused", "paused", False), ("BootTimeout", "running", True)],
)  # fmt: skip
def test_what_was_observed_is_part_of_the_phase(
    ledger: Ledger, reason: str, phase: str, ready: bool
) -> None:
    found = item(ledger, running(), findings=[replace(READY, reason=reason)])
    assert (found["phase"], found["ready"]) == (phase, ready)


def test_one_that_has_not_answered_is_not_ready_unless_nobody_can_ask_it(ledger: Ledger) -> None:
    assert item(ledger, running(ready_at=None))["ready"] is False
    mute = running(
        vm("mute", image=replace(IMAGE, nocloud=False)), ready_at=None, ssh_port=None, forwards=()
    )
    found = {one["name"]: one for one in told(ledger, mute)["items"]}
    assert found["mute"]["ready"] is True
    assert found["mute"]["ssh"] is None


def test_why_it_is_ready_or_not_agrees_with_whether_it_is(ledger: Ledger) -> None:
    """Sabotage: tell what the last pass found. It is ready then because it does not answer over SSH."""
    booting = replace(READY, reason="Booting", message="it does not answer over SSH yet")
    found = item(ledger, running(), findings=[booting])
    assert (found["ready"], found["reason"]) == (True, "Ready")
    found = item(ledger, running(ready_at=None), findings=[READY])
    assert (found["ready"], found["reason"]) == (False, "Booting")
    ill = running(ready_at=None, unhealthy="tcp 80: refused")
    found = item(ledger, ill, findings=[READY])
    assert (found["ready"], found["reason"]) == (False, "Unhealthy")
    assert found["message"] == "its health check fails: tcp 80: refused"


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.STOPPED, Phase.CRASHED, Phase.PENDING])
def test_what_does_not_run_is_told_by_its_recorded_phase(ledger: Ledger, phase: Phase) -> None:
    one = instance(phase=phase, cause=Cause.NONE)
    assert item(ledger, one)["phase"] == phase.value
    assert item(ledger, one)["ready"] is False


@pytest.mark.parametrize("made", [True, False])
def test_one_that_is_wanted_stopped_and_never_ran_is_stopped(ledger: Ledger, made: bool) -> None:
    said = Finding("kept", "Stopped", "power is stopped, and it was never started", "vm", WEB)
    made_of = (instance(vm(power="stopped")),) if made else ()
    assert item(ledger, *made_of, findings=[said])["phase"] == "stopped"


def test_of_two_generations_the_last_that_was_started_is_told(ledger: Ledger) -> None:
    new = instance(vm(memory=1 << 30), generation=2)
    assert item(ledger, running(), new)["generation"] == 1
    started = replace(new, phase=Phase.STARTING, process=process(4243))
    now = replace(started, phase=Phase.RUNNING, started_at=5.0)
    assert item(ledger, started)["generation"] == 1
    assert item(ledger, now)["generation"] == 2


def test_names_stand_in_order(ledger: Ledger) -> None:
    found = told(ledger, running(vm("web")), running(vm("api"), ssh_port=22001))
    assert [one["name"] for one in found["items"]] == ["api", "web"]


def test_times_are_told_in_utc_to_the_millisecond() -> None:
    assert stamp(None) is None
    assert stamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert stamp(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"
