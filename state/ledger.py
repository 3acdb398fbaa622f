"""The ledger: what holdfast did and what it knows, in SQLite, written by one agent at a time.

Every change goes through `transaction()`: all of it is there or none, durable when the block ends. Instances and names
are kept in memory too, so that a pass over unchanged ones reads nothing; that is sound because only the holder of the
state directory's lock opens a Ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from state import database, schema
from state.ballast import Ballast
from state.history import Event
from state.ids import Name, RunId, Uid
from state.observed import Instance, NameRecord, Retry
from state.records import LedgerDamaged, LedgerUnreadable, Reader
from state.runs import Run
from state.transaction import Transaction

K = TypeVar("K")
V = TypeVar("V")

EVENTS_KEPT = 10_000
STEPS_KEPT = 5_000
_PRUNE_EVERY = 500


class LedgerNewer(LedgerUnreadable):
    """A later version of holdfast has changed the database in a way that this one does not know."""


class LedgerUnwritable(LedgerUnreadable):
    """Nothing can be recorded any more: the disk is full or fails, or the database was taken away."""


class LedgerHeld(LedgerUnwritable):
    """Another program does not let go of the database."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another program holds the state database (let it end; `fuser {path}` tells which)"
        )


class Ledger:
    """The open database.

    Whatever cannot be written raises LedgerUnwritable. The process that meets it should end: what it would do next
    could not be recorded, and what is recorded lets the next one go on.

    While another program holds the database, a write lets the whole process wait, a second at most. Who shares a loop
    with others awaits `free` first, and only then reads what it is to change.
    """

    def __init__(
        self,
        path: Path,
        *,
        sockets: Path | None = None,
        ballast: Path | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_run: Callable[[Run], None] | None = None,
    ) -> None:
        """Open or make the database at `path`, mode 0600, and bring its tables up to date.

        `sockets` is the directory below which the sockets of each uid lie, `ballast` a file that is given up so that a
        full disk still takes what is to be recorded. `on_event` is told of every event once it is
        durable, and `on_run` of every run that was recorded. Raises LedgerUnreadable where the file cannot be used,
        of that LedgerDamaged where it holds no sound database and LedgerNewer where it comes from a later version.
        """
        self._path = path
        self._sockets = sockets
        self._on_event = on_event
        self._on_run = on_run
        self._appended = 0
        self._ballast = Ballast(ballast) if ballast is not None else None
        self._make_room()
        self._file = database.private(path)
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=database.OPENING)
        try:
            # FULL: a commit that returned survives a power cut. It costs 0.3 ms.
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                "foreign_keys=ON",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            self._check()
            self._migrate()
            self.reader = Reader(self._connection)
            self._instances = {instance.uid: instance for instance in self.reader.instances()}
            self._names = self.reader.names()
            self._retries = self.reader.retries()
            self._runs = {run.id: run for run in self.reader.runs()}
            self._wait_for_others(database.BUSY)
        except sqlite3.Error as error:
            self.close()
            unusable = LedgerDamaged if database.damaged(error) else LedgerUnreadable
            raise unusable(f"the state database cannot be used: {error}") from error
        except LedgerUnreadable:
            self.close()
            raise

    def _check(self) -> None:
        # A damaged page is found here, not in the middle of a step. It costs 10 ms for a ledger with a full history.
        [(found,)] = self._connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise LedgerDamaged(f"the state database is damaged: {found}")

    def _migrate(self) -> None:
        applied = schema.applied(self._connection)
        if later := [name for name in applied if name not in schema.KNOWN]:
            raise LedgerNewer(f"the state database was written by a later version ({later[-1]})")
        if len(applied) < len(schema.KNOWN):
            from state.migrations import bring_up_to_date

            bring_up_to_date(self._connection)

    def close(self) -> None:
        self._connection.close()

    @property
    def changes(self) -> int:
        """Rows that were written since it was opened."""
        return self._connection.total_changes

    def instances(self) -> list[Instance]:
        """Every recorded instance."""
        return list(self._instances.values())

    def instance(self, uid: Uid) -> Instance | None:
        return self._instances.get(uid)

    def meta(self, key: str) -> str | None:
        """One of the single values, None where it was never set."""
        return self.reader.meta(key)

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

    def runs(self) -> list[Run]:
        """Every remembered run, oldest of each name first."""
        return sorted(self._runs.values(), key=lambda run: (run.name, run.number))

    def run(self, run: RunId) -> Run | None:
        return self._runs.get(run)

    async def free(self) -> bool:
        """Return once no other program holds the database, blocking nobody meanwhile; whether there was a wait. What a
        caller has read before it may then have changed. Raises LedgerHeld after a minute, and LedgerUnwritable where
        the database was taken away."""
        self._must_be_there()
        if self._is_free():
            return False
        try:
            async with asyncio.timeout(database.PATIENCE):
                while not self._is_free():  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(database.TRY)
        except TimeoutError as error:
            raise LedgerHeld(self._path) from error
        return True

    def _is_free(self) -> bool:
        try:
            self._wait_for_others(0.0)
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            # Whatever else it is, the write that is to come will say.
            return not database.held(error)
        finally:
            self._wait_for_others(database.BUSY)
        return True

    def _wait_for_others(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All that is said inside becomes durable when the block ends well, and nothing of it otherwise. Raises
        LedgerUnwritable."""
        change = Transaction(
            self._connection, self._sockets, self._instances, self._retries, self._runs
        )
        self._must_be_there()
        self._make_room()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield change
            self._prune(change.appended)
            self._connection.execute("COMMIT")
        except BaseException as error:
            # SQLite has rolled back by itself where the disk is full or fails.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if database.held(error):
                raise LedgerHeld(self._path) from error
            if database.of_the_disk(error):
                raise LedgerUnwritable(f"the state database cannot be written: {error}") from error
            raise
        _apply(change.instances, self._instances)
        _apply(change.names, self._names)
        _apply(change.retries, self._retries)
        _apply(change.runs, self._runs)
        if self._on_event is not None:
            for event in change.events:
                self._on_event(event)
        if self._on_run is not None:
            for run in filter(None, change.runs.values()):
                self._on_run(run)

    def _must_be_there(self) -> None:
        if database.identity(self._path) != self._file:
            raise LedgerUnwritable("the state database was taken away or replaced")

    def _make_room(self) -> None:
        if self._ballast is not None:
            self._ballast.adjust()

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


def _apply(changes: Mapping[K, V | None], kept: dict[K, V]) -> None:
    for key, value in changes.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = value
