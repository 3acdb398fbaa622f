"""What one change of the ledger says: rows put and removed, and what the ledger is to remember of them once they are
durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from state import lifecycle
from state.fields import shallow
from state.history import Event, Finding, StepRecord
from state.ids import Name, RunId, Uid
from state.observed import Instance, NameRecord, Retry
from state.records import instance_row
from state.run_rows import run_row
from state.runs import Run
from state.runs import move as move_run


class Transaction:
    """What one transaction says. Made by `Ledger.transaction` alone."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        sockets: Path | None,
        instances: Mapping[Uid, Instance],
        retries: Mapping[str, Retry],
        runs: Mapping[RunId, Run],
    ) -> None:
        self._connection = connection
        self._sockets = sockets
        self._instances = instances
        self._retries = retries
        self._runs = runs
        # What this transaction changes, None for what it removes.
        self.instances: dict[Uid, Instance | None] = {}
        self.names: dict[Name, NameRecord] = {}
        self.retries: dict[str, Retry | None] = {}
        self.runs: dict[RunId, Run | None] = {}
        self.events: list[Event] = []
        self.appended = 0

    def put_meta(self, key: str, value: str) -> None:
        self._put("meta", {"key": key, "value": value})

    def put_instance(self, instance: Instance) -> None:
        """Record an instance whole. Raises lifecycle.IllegalMove for a phase that cannot follow the recorded one."""
        old = self.instances.get(instance.uid, self._instances.get(instance.uid))
        if old is not None:
            lifecycle.move(old.phase, instance.phase)
        qmp = str(self._sockets / instance.uid / "qmp") if self._sockets else ""
        self._put("instances", instance_row(instance, qmp=qmp))
        self.instances[instance.uid] = instance

    def remove_instance(self, uid: Uid) -> None:
        self._connection.execute("DELETE FROM instances WHERE uid = ?", [uid])
        self.instances[uid] = None

    def put_name(self, record: NameRecord) -> None:
        self._put("names", shallow(record))
        self.names[record.name] = record

    def put_run(self, run: Run) -> None:
        """Record a run whole. Raises runs.IllegalRunMove for a phase that cannot follow the recorded one."""
        old = self.runs.get(run.id, self._runs.get(run.id))
        if old is not None:
            move_run(old.phase, run.phase)
        self._put("runs", run_row(run))
        self.runs[run.id] = run

    def remove_run(self, run: RunId) -> None:
        self._connection.execute("DELETE FROM runs WHERE id = ?", [run])
        self.runs[run] = None

    def put_retry(self, retry: Retry) -> None:
        self._put("retries", shallow(retry))
        self.retries[retry.key] = retry

    def remove_retry(self, key: str) -> None:
        if self.retries.get(key, self._retries.get(key)) is None:
            return
        self._connection.execute("DELETE FROM retries WHERE key = ?", [key])
        self.retries[key] = None

    def begin_step(self, step: StepRecord) -> int:
        """Record the intent; returns the id to end the step by."""
        self.appended += 1
        row = {
            "pass": step.pass_id,
            "action": step.action,
            "kind": step.kind,
            "name": step.name,
            "uid": step.uid,
            "generation": step.generation,
            "because": step.because,
            "begun_at": step.begun_at,
        }
        return self._insert("steps", row)

    def end_step(self, step: int, *, at: float, outcome: str, error: str | None = None) -> None:
        """Record the outcome: `done`, `failed` or `interrupted`."""
        self._connection.execute(
            "UPDATE steps SET ended_at = ?, outcome = ?, error = ? WHERE id = ?",
            [at, outcome, error, step],
        )

    def interrupt_open_steps(self, *, at: float) -> int:
        """Say of every step that its agent died under it; how many there were."""
        done = self._connection.execute(
            "UPDATE steps SET ended_at = ?, outcome = 'interrupted' WHERE ended_at IS NULL", [at]
        )
        return done.rowcount

    def event(self, event: Event) -> None:
        self.appended += 1
        self.events.append(event)
        row = {
            "at": event.at, "pass": event.pass_id, "kind": event.kind, "name": event.name,
            "uid": event.uid, "reason": event.reason, "message": event.message,
        }  # fmt: skip
        self._insert("events", row)

    def put_finding(self, key: str, finding: Finding) -> None:
        self._put("findings", {"key": key} | shallow(finding))

    def remove_finding(self, key: str) -> None:
        self._connection.execute("DELETE FROM findings WHERE key = ?", [key])

    # sqlite-utils' own upsert is not used: it falls back to INSERT OR IGNORE, which drops a row in silence, for good
    # once its first try of the other way met a full disk.

    def _put(self, table: str, row: dict[str, Any]) -> None:
        """Insert the row, or change the one with its key, which is its first column."""
        key, *others = row
        changed = ", ".join(f'"{column}" = excluded."{column}"' for column in others)
        self._insert(table, row, f'ON CONFLICT ("{key}") DO UPDATE SET {changed}')

    def _insert(self, table: str, row: dict[str, Any], otherwise: str = "") -> int:
        columns = ", ".join(f'"{column}"' for column in row)
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO {table} ({columns}) VALUES ({marks}) {otherwise}"  # noqa: S608
        return self._connection.execute(sql, list(row.values())).lastrowid or 0
