"""What a person or a program is told about every name: the `status -o json` shape, from the ledger alone.

It works without an agent, so it is also told, by `alive`, which of the recorded processes still run: a ledger that
nobody keeps can say `running` of a machine that is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from agent.conditions import conditions
from agent.jobs.told import job_item
from agent.paths import StatePaths
from state.clock import stamp
from state.history import Finding
from state.ids import Name
from state.lifecycle import Phase
from state.observed import Instance
from state.records import PUBLISHED_KEY, SOURCE_KEY, SUSPENDED_KEY, Reader
from state.runs import Run


def status(
    reader: Reader,
    paths: StatePaths,
    *,
    agent_pid: int | None,
    alive: Callable[[Instance], bool],
) -> dict[str, Any]:
    """The whole shape. `paths` are those of the reader's state directory; `agent_pid` is the running agent's as
    `statedir.holder` tells it, None where there is none."""
    with reader.snapshot():
        findings = reader.findings()
        instances: dict[Name, Instance] = {}
        for instance in reader.instances():
            instances[instance.name] = _current(instances.get(instance.name), instance)
        sockets = reader.qmp_sockets()
        runs = reader.spoken_of()
        source = json.loads(reader.meta(SOURCE_KEY) or "null")
        suspended = float(reader.meta(SUSPENDED_KEY) or 0)
        published = json.loads(reader.meta(PUBLISHED_KEY) or "null")
    of_name = {one.name: one for key, one in findings.items() if key.startswith("vm/") and one.name}
    of_job = {one.name: one for key, one in findings.items() if key.startswith("job/") and one.name}
    guests = {
        name: one if alive(one) else replace(one, process=None)
        for name, one in instances.items()
        if one.kind == "job"
    }
    vms = {name: one for name, one in instances.items() if one.kind == "vm"}
    names = sorted({*vms, *(name for name, one in of_name.items() if one.scope != "holding")})
    under_way = (name for name, run in runs.items() if not run.phase.ended)
    told = (name for name, one in of_job.items() if one.scope != "holding" or name in runs)
    jobs = sorted({*told, *under_way})
    items = [
        *(_item(name, vms.get(name), of_name.get(name), sockets, alive) for name in names),
        *(
            job_item(name, runs.get(name), guests.get(name), of_job.get(name), paths)
            for name in jobs
        ),
    ]
    commit = source["commit"] if source else None
    for item in items:
        found = of_job if item["kind"] == "job" else of_name
        place = item["source"]
        if place is not None and place["commit"] is None and source and source["kind"] == "git":
            place["commit"] = commit  # nothing was made of it yet that could tell another
        item["conditions"] = conditions(item, found.get(item["name"]), commit)
    return {
        "agent": {
            "running": agent_pid is not None,
            "pid": agent_pid or None,
            "source": _source(source, paths),
            "suspended_at": stamp(suspended or None),
            "status_ref": published,
        },
        "items": items,
        "held": [_problem(one) for one in findings.values() if one.scope == "held"],
        "errors": [
            *(_problem(one) for one in findings.values() if one.scope == "error"),
            *(_problem(one) for one in _unpushed(published)),
        ],
        "waiting": [
            {"name": one.name, "reason": one.reason, "message": one.message}
            for one in findings.values()
            if one.scope in ("waiting", "holding") and not _is_over(one, runs)
        ],
        "advice": [_problem(one) for one in findings.values() if one.scope == "advice"],
    }


def _is_over(finding: Finding, runs: Mapping[Name, Run]) -> bool:
    """Whether the last pass waited for a run that has ended since."""
    run = runs.get(finding.name) if finding.name else None
    return finding.reason in ("InProgress", "Unresponsive") and run is not None and run.phase.ended


_ALIVE = frozenset(
    {"Ready", "Running", "Booting", "Connecting", "Paused", "Unresponsive", "Unknown"}
)
"""Reasons of what runs: one without a process has not been looked at since."""


def _current(old: Instance | None, new: Instance) -> Instance:
    """Of a name's instances (oldest first) the one to speak of: the last that was ever started."""
    return old if old is not None and new.started_at is None else new


def _item(
    name: Name,
    instance: Instance | None,
    finding: Finding | None,
    sockets: dict[Any, str],
    alive: Callable[[Instance], bool],
) -> dict[str, Any]:
    reason = finding.reason if finding else "Unknown"
    message = finding.message if finding else "no agent has looked at it yet"
    if instance is None:
        place = {"file": finding.file, "line": finding.line, "commit": None} if finding else None
        phase = "stopped" if reason == "Stopped" else "pending"
        return _blank(name) | {
            "phase": phase, "reason": reason, "message": message, "source": place,
        }  # fmt: skip
    running = instance.process is not None and alive(instance)
    phase = _phase(instance, reason, running)
    if phase == "crashed" and instance.phase is Phase.RUNNING and reason in _ALIVE:
        reason, message = "Gone", "its process is gone, and no agent has seen to it yet"
    spec = json.loads(instance.spec)
    unasked = not spec["image"]["nocloud"] and not spec.get("health")
    ready = phase == "running" and (instance.ready_at is not None or unasked)
    ready = ready and reason != "IOError"  # it stands still
    if instance.kind == "vm" and phase == "running" and not unasked:
        reason, message = _since(instance, ready, reason, message)
    return _blank(name) | {
        "generation": instance.generation,
        "uid": instance.uid,
        "phase": phase,
        "ready": ready,
        "reason": reason,
        "message": message,
        "pid": instance.process.pid if instance.process and running else None,
        "qmp": sockets.get(instance.uid),
        "image": spec["image"]["label"],
        "accel": instance.accelerator,
        "labels": dict(spec["labels"]),
        "ssh": {"host": "127.0.0.1", "port": instance.ssh_port, "user": spec["image"]["ssh_user"]}
        if instance.ssh_port
        else None,
        "ports": [
            {"address": port["address"], "host": port["host"], "guest": port["guest"]}
            for port in map(asdict, instance.forwards)
            if port["host"] != instance.ssh_port
        ],
        "spec_digest": instance.spec_digest,
        "source": {
            "file": instance.source.file,
            "line": instance.source.line,
            "commit": instance.source.commit,
        },
        "started_at": stamp(instance.started_at),
        "restarts": instance.restarts,
    }


def _blank(name: Name) -> dict[str, Any]:
    return {
        "kind": "vm", "name": name, "generation": None, "uid": None, "phase": "pending",
        "ready": False, "reason": "", "message": "", "pid": None, "qmp": None, "image": None,
        "accel": None, "labels": {}, "ssh": None, "ports": [], "spec_digest": None,
        "source": None, "started_at": None, "restarts": 0,
    }  # fmt: skip


def _since(instance: Instance, ready: bool, reason: str, message: str) -> tuple[str, str]:
    """Why it is (not) ready. That it became so is recorded at once; what a pass finds of it, only by the next one."""
    if ready and reason in ("Booting", "BootTimeout", "RebootLoop", "Unhealthy"):
        return "Ready", "it has become ready"
    if not ready and reason == "Ready" and instance.unhealthy:
        return "Unhealthy", f"its health check fails: {instance.unhealthy}"
    if not ready and reason == "Ready":
        return "Booting", "it has become unready"
    return reason, message


def _phase(instance: Instance, reason: str, running: bool) -> str:
    if instance.phase in (Phase.RUNNING, Phase.STARTING) and instance.process and not running:
        return "crashed"
    if instance.phase is Phase.PENDING and reason == "Stopped":
        return "stopped"
    if instance.phase is Phase.RUNNING:
        return {"Unresponsive": "unresponsive", "Paused": "paused"}.get(reason, "running")
    return instance.phase.value


def _unpushed(published: dict[str, Any] | None) -> list[Finding]:
    """That the status itself could not be pushed."""
    error = (published or {}).get("error")
    return [] if error is None else [Finding("error", "StatusNotPushed", error)]


def _problem(one: Finding) -> dict[str, Any]:
    return {
        "name": one.name,
        "file": one.file,
        "line": one.line,
        "column": one.column,
        "message": one.message,
    }


def _source(source: dict[str, Any] | None, paths: StatePaths) -> dict[str, Any] | None:
    if source is None:
        return None
    at = None
    with suppress(OSError):
        at = paths.fetched.stat().st_mtime if source["kind"] == "git" else None
    return {key: value for key, value in source.items() if key != "pending"} | {
        "fetched_at": stamp(at)
    }
