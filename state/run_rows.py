"""Rows of runs, and the file that says the same, as the noun they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from state.desired import SourceRef
from state.ids import Digest, Name, RunId, Uid
from state.runs import Run, RunPhase, Spent
from state.work import Artifact

_AS_THEY_ARE = (
    "number", "spec", "reason", "message", "attempt", "boot_id", "attempt_began", "not_before",
    "queued_at", "began_at", "started_at", "ended_at", "exit_code", "kept_until", "cancel",
    "guest_boot",
)  # fmt: skip


def run_row(run: Run) -> dict[str, Any]:
    """The row of a run."""
    return {
        "id": run.id,
        "name": run.name,
        "spec_digest": run.spec_digest,
        "source_file": run.source.file,
        "source_line": run.source.line,
        "source_commit": run.source.commit,
        "phase": run.phase.value,
        "uid": run.uid,
        "spent": json.dumps(asdict(run.spent)),
        "artifacts": json.dumps([asdict(one) for one in run.artifacts]),
        "notes": json.dumps(run.notes),
        **{field: getattr(run, field) for field in _AS_THEY_ARE},
    }


def run_of(row: Mapping[str, Any]) -> Run:
    """The run that `run_row` made the row of. Raises ValueError, KeyError or TypeError for another row."""
    return Run(
        id=RunId(row["id"]),
        name=Name(row["name"]),
        spec_digest=Digest(row["spec_digest"]),
        source=SourceRef(row["source_file"], row["source_line"], row["source_commit"]),
        phase=RunPhase(row["phase"]),
        uid=Uid(row["uid"]) if row["uid"] else None,
        spent=Spent(**json.loads(row["spent"])),
        artifacts=tuple(Artifact(**one) for one in json.loads(row["artifacts"])),
        notes=tuple(json.loads(row["notes"])),
        **{field: row[field] for field in _AS_THEY_ARE},
    )
