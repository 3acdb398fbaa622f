"""What programs read, `-o json` of status, plan, events and explain: field by field against contract and world."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

BROKEN = "api: holdfast/v1\nkind: vm\nname: db\nmemry: 1GiB\n"


def told(place: Site, *words: str, status: int = 0) -> dict[str, Any]:
    done = place.call(*words, "-o", "json")
    assert (done.returncode, done.stderr) == (status, b"")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_recent(stamp: str) -> bool:
    """Whether it is a time of RFC 3339 in UTC, within the hour."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp), stamp
    return abs(datetime.now(UTC) - datetime.fromisoformat(stamp)) < timedelta(hours=1)  # noqa: TID251


def test_every_json_has_the_fields_of_the_contract_and_tells_the_truth(
    tiny: Site, free_ports: list[int]
) -> None:
    port = free_ports[0]
    tiny.vm("web", more=f"labels: {{tier: edge}}\nports: [{{host: {port}, guest: 80}}]")
    tiny.write("db.yaml", BROKEN)
    with socket.socket() as squatter, tiny.agent() as agent:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        tiny.vm("api", more=f"ports: [{{host: {taken}, guest: 80}}]")
        tiny.ready("web")
        tiny.until(lambda: tiny.item("api").get("reason") == "PortTaken", "it waits")
        tiny.until(lambda: tiny.item("web")["message"] == "it answers over SSH", "a pass saw it")

        found = told(tiny, "status")
        status_is_true(tiny, found, agent.pid, port, taken)
        alone = told(tiny, "status", "web")
        web = next(one for one in found["items"] if one["name"] == "web")
        assert alone["items"] == [web]
        assert (alone["held"], alone["waiting"]) == ([], [])

        tiny.vm("web", memory="160MiB", more="labels: {tier: core}")
        tiny.until(lambda: tiny.item("web")["generation"] == 2, "it is replaced")
        tiny.ready("web", generation=2)
    tiny.vm("web", memory="192MiB")
    plan_is_true(told(tiny, "plan", "--desired", str(tiny.desired), status=1))
    events_are_true(tiny)
    explanation_is_true(tiny)


def status_is_true(place: Site, found: dict[str, Any], agent: int, port: int, taken: int) -> None:
    assert found.keys() >= {"agent", "items", "held", "errors", "waiting"}
    source = found["agent"].pop("source")
    assert found["agent"] == {
        "running": True,
        "pid": agent,
        "suspended_at": None,
        "status_ref": None,
    }
    assert (source["kind"], source["commit"], source["error"]) == ("directory", None, None)
    assert source["fetched_at"] is None, "nothing is fetched from a directory"

    web = dict(next(one for one in found["items"] if one["name"] == "web"))
    [instance] = [one for one in place.instances() if one.name == "web"]
    process, ssh_port = instance.process, web["ssh"]["port"]
    assert process is not None
    assert is_recent(web.pop("started_at"))
    assert Path(web.pop("qmp")).is_socket()
    conditions = {one["type"]: one for one in web["conditions"]}
    assert {kind: one["status"] for kind, one in conditions.items()} == {
        "Ready": True, "Reconciling": False, "Stalled": False
    }  # fmt: skip
    for one in web.pop("conditions"):
        assert (one["reason"], one["message"], one["commit"]) == (
            "Ready",
            "it answers over SSH",
            None,
        )
        assert is_recent(one["since"])
    assert web == {
        "kind": "vm", "name": "web", "generation": 1, "uid": instance.uid, "phase": "running",
        "ready": True, "reason": "Ready", "message": "it answers over SSH", "pid": process.pid,
        "image": "tiny", "accel": "tcg", "labels": {"tier": "edge"},
        "ssh": {"host": "127.0.0.1", "port": ssh_port, "user": "tiny"},
        "ports": [{"address": "127.0.0.1", "host": port, "guest": 80}],
        "spec_digest": instance.spec_digest,
        "source": {"file": "web.yaml", "line": 1, "commit": None}, "restarts": 0,
    }  # fmt: skip
    assert place.processes() == {process.pid: instance.uid}

    api = next(one for one in found["items"] if one["name"] == "api")
    assert api.keys() == web.keys() | {"started_at", "qmp", "conditions"}
    assert (api["phase"], api["ready"], api["pid"], api["uid"]) == ("pending", False, None, None)
    [held] = found["held"]
    assert (held["name"], held["file"], held["line"], held["column"]) == ("db", "db.yaml", 4, 1)
    assert held["message"] == "unknown key `memry` (did you mean `memory`?)"
    waiting = {one["name"]: one for one in found["waiting"]}
    assert waiting["api"].keys() == {"name", "reason", "message"}
    assert waiting["api"]["reason"] == "PortTaken"
    assert waiting["api"]["message"].startswith(f"port {taken} of 127.0.0.1 is taken by ")
    assert found["errors"] == []


def plan_is_true(plan: dict[str, Any]) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", plan["id"])
    steps = {one["name"]: one for one in plan["steps"]}
    assert [one["action"] for one in plan["steps"]] == ["replace", "create", "hold"]
    assert steps["web"] == {
        "action": "replace", "kind": "vm", "name": "web", "because": "memory 160MiB -> 192MiB",
        "fields": ["memory"], "source": {"file": "web.yaml", "line": 1}, "reason": None,
    }  # fmt: skip
    assert steps["db"]["reason"] == "InvalidDocument"
    assert steps["api"]["source"] == {"file": "api.yaml", "line": 1}


def events_are_true(place: Site) -> None:
    events = place.events()
    assert all(
        one.keys() == {"id", "at", "kind", "name", "uid", "reason", "message", "pass"}
        and is_recent(one["at"])
        for one in events
    )
    assert [one["id"] for one in events] == sorted({one["id"] for one in events})
    of_web = place.events("web")
    assert of_web == [one for one in events if one["name"] == "web"]
    assert [one["reason"] for one in of_web] == ["Created", "Ready", "Gone", "Replaced", "Ready"]
    assert {one["kind"] for one in of_web} == {"vm"}
    assert place.events("--last", "2") == events[-2:]


def explanation_is_true(place: Site) -> None:
    found = told(place, "explain", "web")
    assert found.keys() == {"item", "held", "waiting", "steps", "events"}
    assert found["item"] == place.item("web")
    assert [(one["action"], one["outcome"], one["error"]) for one in found["steps"]] == [
        ("create", "done", None),
        ("replace", "done", None),
    ]
    assert all(is_recent(one["begun_at"]) and is_recent(one["ended_at"]) for one in found["steps"])
    assert found["steps"][-1]["because"] == "memory 128MiB -> 160MiB"
    assert [one["reason"] for one in found["events"]] == [
        one["reason"] for one in place.events("web")
    ]
    assert told(place, "explain", "db")["held"][0]["file"] == "db.yaml"
