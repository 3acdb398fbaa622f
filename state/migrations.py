"""The ledger's tables, as migrations that only ever grow: what a release has written, every later one can open."""

from __future__ import annotations

import sqlite3
from typing import cast

from sqlite_utils import Database, Migrations
from sqlite_utils.db import Table

from state.schema import SET

migrations = Migrations(SET)


@migrations()
def m0001_first(db: Database) -> None:
    """Names, instances, steps, events, the last report, and single values."""
    _table(db, "meta").create({"key": str, "value": str}, pk="key", not_null={"value"})
    _table(db, "names").create(
        {"name": str, "generation": int, "ssh_port": int},
        pk="name",
        not_null={"generation"},
    ).create_index(["ssh_port"], unique=True)
    _table(db, "retries").create(
        {
            "key": str,
            "what": str,
            "failures": int,
            "retry_at": float,
            "retry_boot": str,
            "error": str,
        },
        pk="key",
        not_null={"what", "failures", "retry_at", "retry_boot", "error"},
    )
    _table(db, "instances").create(
        {
            "uid": str,
            "kind": str,
            "name": str,
            "generation": int,
            "phase": str,
            "cause": str,
            "spec": str,
            "spec_digest": str,
            "base": str,
            "accelerator": str,
            "source_file": str,
            "source_line": int,
            "source_commit": str,
            "created_at": float,
            "boot_id": str,
            "pid": int,
            "start_ticks": int,
            "qmp": str,
            "forwards": str,
            "ssh_port": int,
            "run_as": int,
            "started_at": float,
            "ready_at": float,
            "restarts": int,
            "detail": str,
        },
        pk="uid",
        not_null={"kind", "name", "generation", "phase", "spec", "spec_digest", "base", "forwards"},
    ).create_index(["kind", "name", "generation"], unique=True)
    _table(db, "steps").create(
        {
            "id": int,
            "pass": str,
            "action": str,
            "kind": str,
            "name": str,
            "uid": str,
            "generation": int,
            "because": str,
            "begun_at": float,
            "ended_at": float,
            "outcome": str,
            "error": str,
        },
        pk="id",
        not_null={"pass", "action", "kind", "name", "begun_at"},
    ).create_index(["name"]).create_index(["ended_at"])
    _table(db, "events").create(
        {
            "id": int,
            "at": float,
            "pass": str,
            "kind": str,
            "name": str,
            "uid": str,
            "reason": str,
            "message": str,
        },
        pk="id",
        not_null={"at", "reason", "message"},
    ).create_index(["name"])
    _table(db, "findings").create(
        {
            "key": str,
            "scope": str,
            "kind": str,
            "name": str,
            "reason": str,
            "message": str,
            "file": str,
            "line": int,
            "column": int,
            "since": float,
        },
        pk="key",
        not_null={"scope", "reason", "message"},
    )


@migrations()
def m0002_runs(db: Database) -> None:
    _table(db, "runs").create(
        {
            "id": str,
            "name": str,
            "number": int,
            "spec": str,
            "spec_digest": str,
            "source_file": str,
            "source_line": int,
            "source_commit": str,
            "phase": str,
            "reason": str,
            "message": str,
            "attempt": int,
            "spent": str,
            "boot_id": str,
            "attempt_began": float,
            "not_before": float,
            "queued_at": float,
            "began_at": float,
            "started_at": float,
            "ended_at": float,
            "exit_code": int,
            "uid": str,
            "kept_until": float,
            "cancel": str,
            "guest_boot": str,
            "artifacts": str,
            "notes": str,
        },
        pk="id",
        not_null={"name", "number", "spec", "spec_digest", "phase", "queued_at"},
    ).create_index(["name", "number"], unique=True)


@migrations()
def m0003_health(db: Database) -> None:
    _table(db, "instances").add_column("unhealthy", str, not_null_default="")


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Apply what was not applied yet."""
    migrations.apply(Database(connection, execute_plugins=False))


def _table(db: Database, name: str) -> Table:
    return cast("Table", db[name])
