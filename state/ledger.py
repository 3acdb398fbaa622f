"""The ledger: what holdfast did and what it knows, in SQLite, written by one agent at a time.

Every change goes through `transaction()`: all of it is there or none, durable when the block ends. Instances and names
are kept in memory too, so that a pass over unchanged ones reads nothing; that is sound because only the holder of the
state directory's lock opens a Ledger.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast

from sqlite_utils import Database
from sqlite_utils.db import Table

from state import lifecycle
from state.history import Event, Finding, StepRecord
from state.ids import Name, Uid
from state.observed import Instance, NameRecord, Retry
from state.records import LedgerUnreadable, Reader, instance_row
from state.schema import migrations

K = TypeVar("K")
V = TypeVar("V")

EVENTS_KEPT = 10_000
STEPS_KEPT = 5_000
_PRUNE_EVERY = 500


class LedgerNewer(LedgerUnreadable):
    """A later version of holdfast has changed the database in a way that this one does not know."""


class Ledger:
    """The open database."""

    def __init__(
        self,
        path: Path,
        *,
        sockets: Path | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Open or make the database at `path`, mode 0600, and bring its tables up to date.

        `sockets` is the directory below which the sockets of each uid lie. `on_event` is told of every event once it is
        durable. Raises LedgerUnreadable where the file is
        no sound database, LedgerNewer where it comes from a later version.
        """
        self._sockets = sockets
        self._on_event = on_event
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.close(made)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            # FULL: a commit that returned survives a power cut. It costs 0.3 ms.
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                "foreign_keys=ON",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            self._db = Database(self._connection, execute_plugins=False)
            self._migrate()
            self.reader = Reader(self._connection)
            self._instances = {instance.uid: instance for instance in self.reader.instances()}
            self._names = self.reader.names()
            self._retries = self.reader.retries()
        except (sqlite3.Error, ValueError) as error:
            raise LedgerUnreadable(f"the state database cannot be used: {error}") from error
        self._appended = 0

    def _migrate(self) -> None:
        known = {migration.name for migration in migrations.pending(Database(memory=True))}
        later = [done.name for done in migrations.applied(self._db) if done.name not in known]
        if later:
            raise LedgerNewer(f"the state database was written by a later version ({later[-1]})")
        migrations.apply(self._db)

    def close(self) -> None:
        self._connection.close()

    def instances(self) -> list[Instance]:
        """Every recorded instance."""
        return list(self._instances.values())

    def instance(self, uid: Uid) -> Instance | None:
        return self._instances.get(uid)

    def names(self) -> dict[Name, NameRecord]:
        return dict(self._names)

    def name(self, name: Name) -> NameRecord:
        """What is remembered of `name`; a fresh record for one that was never seen."""
        return self._names.get(name, NameRecord(name))

    def retries(self) -> dict[str, Retry]:
        return dict(self._retries)

    def retry(self, key: str) -> Retry:
        """What is remembered of the failures of `key`; a fresh record where there are none."""
        return self._retries.get(key, Retry(key))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All that is said inside becomes durable when the block ends well, and nothing of it otherwise."""
        change = Transaction(self._db, self._sockets, self._instances, self._retries)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield change
            self._prune(change.appended)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        _apply(change.instances, self._instances)
        _apply(change.names, self._names)
        _apply(change.retries, self._retries)
        if self._on_event is not None:
            for event in change.events:
                self._on_event(event)

    def _prune(self, appended: int) -> None:
        self._appended += appended
        if self._appended < _PRUNE_EVERY:
            return
        self._appended = 0
        for table, kept in (("events", EVENTS_KEPT), ("steps", STEPS_KEPT)):
            self._connection.execute(
                f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?",  # noqa: S608
                [kept],
            )


class Transaction:
    """What one transaction says. Made by `Ledger.transaction` alone."""

    def __init__(
        self,
        db: Database,
        sockets: Path | None,
        instances: Mapping[Uid, Instance],
        retries: Mapping[str, Retry],
    ) -> None:
        self._db = db
        self._sockets = sockets
        self._instances = instances
        self._retries = retries
        # What this transaction changes, None for what it removes.
        self.instances: dict[Uid, Instance | None] = {}
        self.names: dict[Name, NameRecord | None] = {}
        self.retries: dict[str, Retry | None] = {}
        self.events: list[Event] = []
        self.appended = 0

    def put_meta(self, key: str, value: str) -> None:
        self._table("meta").upsert({"key": key, "value": value}, pk="key")

    def put_instance(self, instance: Instance) -> None:
        """Record an instance whole. Raises lifecycle.IllegalMove for a phase that cannot follow the recorded one."""
        old = self.instances.get(instance.uid, self._instances.get(instance.uid))
        if old is not None:
            lifecycle.move(old.phase, instance.phase)
        qmp = str(self._sockets / instance.uid / "qmp") if self._sockets else ""
        self._table("instances").upsert(instance_row(instance, qmp=qmp), pk="uid")
        self.instances[instance.uid] = instance

    def remove_instance(self, uid: Uid) -> None:
        self._db.execute("DELETE FROM instances WHERE uid = ?", [uid])
        self.instances[uid] = None

    def put_name(self, record: NameRecord) -> None:
        self._table("names").upsert(asdict(record), pk="name")
        self.names[record.name] = record

    def remove_name(self, name: Name) -> None:
        """Forget a name and its leases."""
        self._db.execute("DELETE FROM names WHERE name = ?", [name])
        self.names[name] = None

    def put_retry(self, retry: Retry) -> None:
        self._table("retries").upsert(asdict(retry), pk="key")
        self.retries[retry.key] = retry

    def remove_retry(self, key: str) -> None:
        if self.retries.get(key, self._retries.get(key)) is None:
            return
        self._db.execute("DELETE FROM retries WHERE key = ?", [key])
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
        return cast("int", self._table("steps").insert(row).last_pk)

    def end_step(self, step: int, *, at: float, outcome: str, error: str | None = None) -> None:
        """Record the outcome: `done`, `failed` or `interrupted`."""
        self._db.execute(
            "UPDATE steps SET ended_at = ?, outcome = ?, error = ? WHERE id = ?",
            [at, outcome, error, step],
        )

    def interrupt_open_steps(self, *, at: float) -> int:
        """Say of every step that its agent died under it; how many there were."""
        done = self._db.execute(
            "UPDATE steps SET ended_at = ?, outcome = 'interrupted' WHERE ended_at IS NULL", [at]
        )
        return done.rowcount

    def event(self, event: Event) -> None:
        self.appended += 1
        self.events.append(event)
        self._table("events").insert(
            {
                "at": event.at, "pass": event.pass_id, "kind": event.kind, "name": event.name,
                "uid": event.uid, "reason": event.reason, "message": event.message,
            }
        )  # fmt: skip

    def put_finding(self, key: str, finding: Finding) -> None:
        self._table("findings").upsert({"key": key} | asdict(finding), pk="key")

    def remove_finding(self, key: str) -> None:
        self._db.execute("DELETE FROM findings WHERE key = ?", [key])

    def _table(self, name: str) -> Table:
        return cast("Table", self._db[name])


def _apply(changes: Mapping[K, V | None], kept: dict[K, V]) -> None:
    for key, value in changes.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = value
