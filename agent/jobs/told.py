"""What a person or a program is told of a job and of its runs. It reads nothing: it is handed what is recorded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from agent.paths import RunPaths, StatePaths
from state.clock import stamp
from state.history import Finding
from state.ids import Name
from state.observed import Instance
from state.runs import Run


def job_item(
    name: Name,
    run: Run | None,
    instance: Instance | None,
    finding: Finding | None,
    paths: StatePaths,
) -> dict[str, Any]:
    """A job in the shape of `status -o json`: its latest run, None where there was none yet, and the VM of its attempt.
    The reason and the message of one that is queued are the last pass's."""
    reason, message = _why(run, finding)
    told = _blank(name) | {"reason": reason, "message": message}
    if finding is not None and finding.file:
        told["source"] = {"file": finding.file, "line": finding.line, "commit": None}
    if run is None:
        return told
    told |= result(run, paths.run(run.id))
    told |= {
        "kind": "job",
        "reason": reason,
        "message": message,
        "image": json.loads(run.spec)["image"]["label"],
        "labels": dict(json.loads(run.spec)["labels"]),
        "source": asdict(run.source),
    }
    if instance is not None and instance.uid == run.uid:
        told |= {
            "uid": instance.uid,
            "pid": instance.process.pid if instance.process else None,
            "accel": instance.accelerator,
            "ssh": {
                "host": "127.0.0.1",
                "port": instance.ssh_port,
                "user": json.loads(instance.spec)["image"]["ssh_user"],
            },
        }
    return told


def _why(run: Run | None, finding: Finding | None) -> tuple[str, str]:
    if run is not None and run.phase.ended:
        return run.reason, run.message
    if run is not None and run.cancel:
        return "Cancelling", run.cancel
    if run is not None and run.phase.active:
        if finding is not None and finding.reason == "Unresponsive":
            return finding.reason, finding.message
        return run.reason, f"attempt {run.attempt} of run {run.number}"
    if finding is None or (run is not None and finding.scope == "kept"):
        # What was found before this run was queued says nothing of it.
        return "Unknown", "no agent has looked at it yet"
    return finding.reason, finding.message


def result(run: Run, mine: RunPaths) -> dict[str, Any]:
    """A run in the shape of `result.json`, in which it says how it ended."""
    return {
        "run": run.id,
        "name": run.name,
        "number": run.number,
        "phase": run.phase.value,
        "reason": run.reason,
        "message": run.message,
        "exit_code": run.exit_code,
        "attempt": run.attempt,
        "retries": asdict(run.spent),
        "queued_at": stamp(run.queued_at),
        "started_at": stamp(run.started_at),
        "ended_at": stamp(run.ended_at),
        "kept_until": stamp(run.kept_until),
        "spec_digest": run.spec_digest,
        "log": str(mine.log),
        "artifacts": [
            asdict(one) | {"file": str(mine.artifacts / one.file)} for one in run.artifacts
        ],
        "notes": list(run.notes),
    }


def _blank(name: Name) -> dict[str, Any]:
    return {
        "kind": "job", "name": name, "run": None, "number": None, "phase": "queued",
        "exit_code": None, "attempt": 0, "retries": None, "reason": "", "message": "",
        "queued_at": None, "started_at": None, "ended_at": None, "kept_until": None, "log": None,
        "artifacts": [], "notes": [], "uid": None, "pid": None, "ssh": None, "accel": None,
        "image": None, "labels": {}, "source": None, "spec_digest": None,
    }  # fmt: skip
