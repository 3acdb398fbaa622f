"""Keeps what machines use, in a database of its own: for some time every look, then one a minute, then one an hour.

Nothing in it is needed to keep a machine, and it is written without waiting for the disk: a power cut may cost the last
looks, and a file that is damaged is thrown away. Rows lie in the order of time, so that each sweep is written to one
place and what is too old is removed from one place.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state import database
from state.fields import shallow
from state.ids import Name, Process, Uid
from state.samples import COLUMNS, COUNTED, MEASURED, TABLES, translated
from state.usage import Counters, Usage

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_PUT = "INSERT OR REPLACE INTO looks VALUES"
_VERSION = 1


class _Damaged(Exception):
    """SQLite can open the file, and finds it unsound."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Seconds that each resolution is kept, at least twice what one row of the next stands for."""

    looks: float = _HOUR
    minutes: float = _DAY
    hours: float = 30 * _DAY


@dataclass(frozen=True, slots=True)
class Look:
    """One machine in one sweep."""

    uid: Uid
    kind: str
    name: Name
    usage: Usage


class Metrics:
    """The open database, for the one agent that writes it. Used by one thread."""

    def __init__(self, path: Path, keep: Keep | None = None) -> None:
        """Open or make the file, mode 0600; one that is damaged or of another version is made anew. Raises
        MetricsUnusable."""
        self._keep = keep or Keep()
        self._rolled = 0.0
        with translated():
            try:
                self._open(path)
            except (sqlite3.Error, _Damaged) as error:
                if not (isinstance(error, _Damaged) or database.damaged(error)):
                    raise
                for part in ("-wal", "-shm", ""):
                    path.with_name(path.name + part).unlink(missing_ok=True)
                self._open(path)

    def _open(self, path: Path) -> None:
        database.private(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=database.BUSY)
        try:
            # OFF: nothing waits for the disk. Only a power cut can then damage the file, and it is made anew.
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "journal_size_limit=4194304"):
                connection.execute(f"PRAGMA {pragma}")
            _check(connection)
            _make(connection)
            self._processes = dict(_processes(connection))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def close(self) -> None:
        self._connection.close()

    def add(self, at: float, looks: Iterable[Look]) -> None:
        """Keep one sweep of the moment `at` (Unix seconds), and make coarse or remove what has become old. Raises
        MetricsUnusable; nothing of the sweep is kept then."""
        with translated():
            self._connection.execute("BEGIN IMMEDIATE")
            known = dict(self._processes)
            try:
                rows = [(at, *self._row(one)) for one in looks]
                marks = ", ".join("?" * (2 + len(COLUMNS)))
                self._connection.executemany(f"{_PUT} ({marks})", rows)
                if at < self._rolled or at // _MINUTE != self._rolled // _MINUTE:
                    self._coarsen(at)
                self._connection.execute("COMMIT")
            except BaseException:
                self._processes = known
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._rolled = at

    def _row(self, look: Look) -> tuple[Any, ...]:
        number, process, before = self._processes.get(look.uid, (0, None, Counters()))
        counted = Counters.of(look.usage)
        if process != look.usage.process:
            # A new process counts from 0: what the machine has used before is what it was last seen to have used.
            before = self._last(number)
            number = self._began(look, before)
            self._processes[look.uid] = (number, look.usage.process, before)
        used = shallow(before.plus(counted))
        return (number, *used.values(), *(getattr(look.usage, name) for name in MEASURED))

    def _last(self, number: int) -> Counters:
        """What a machine was last seen to have used."""
        columns = ", ".join(COUNTED)
        for table in TABLES if number else ():
            row = self._connection.execute(
                f"SELECT {columns} FROM {table} WHERE series = ? ORDER BY at DESC LIMIT 1",  # noqa: S608
                [number],
            ).fetchone()
            if row is not None:
                return Counters(*row)
        return Counters()

    def _began(self, look: Look, before: Counters) -> int:
        process = look.usage.process
        [(number,)] = self._connection.execute(
            "INSERT INTO series (uid, kind, name, boot_id, pid, start_ticks, before)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uid) DO UPDATE SET"
            " boot_id = excluded.boot_id, pid = excluded.pid, start_ticks = excluded.start_ticks,"
            " before = excluded.before RETURNING number",
            [
                look.uid, look.kind, look.name, process.boot_id, process.pid, process.start_ticks,
                json.dumps(shallow(before)),
            ],
        ).fetchall()  # fmt: skip
        return int(number)

    def _coarsen(self, at: float) -> None:
        run = self._connection.execute
        # What a wrong clock has put into the future would stand in the way until then.
        for table in TABLES:
            run(f"DELETE FROM {table} WHERE at > ?", [at])  # noqa: S608
        self._gather("looks", "minutes", _MINUTE)
        self._gather("minutes", "hours", _HOUR)
        for table, kept in shallow(self._keep).items():
            run(f"DELETE FROM {table} WHERE at < ?", [at - kept])  # noqa: S608
        held = " UNION ".join(f"SELECT series FROM {table}" for table in TABLES)  # noqa: S608
        run(f"DELETE FROM series WHERE number NOT IN ({held})")  # noqa: S608
        there = {uid for (uid,) in run("SELECT uid FROM series")}
        self._processes = {uid: one for uid, one in self._processes.items() if uid in there}

    def _gather(self, fine: str, coarse: str, seconds: int) -> None:
        """Make the rows of `coarse` from those of `fine`, anew from the last one on, which may not have been whole.
        Each tells of the last moment that it stands for, so that what was used in between is exact."""
        run = self._connection.execute
        [(last,)] = run(f"SELECT coalesce(max(at), 0) FROM {coarse}").fetchall()  # noqa: S608
        begin = last // seconds * seconds
        run(f"DELETE FROM {coarse} WHERE at >= ?", [begin])  # noqa: S608
        counted = ", ".join(f"max({name})" for name in COUNTED)
        measured = ", ".join(f"CAST(avg({name}) AS INTEGER)" for name in MEASURED)
        run(
            f"INSERT INTO {coarse} SELECT max(at), series, {counted}, {measured} FROM {fine}"  # noqa: S608
            f" WHERE at >= ? GROUP BY CAST(at / {seconds} AS INTEGER), series",
            [begin],
        )


def _check(connection: sqlite3.Connection) -> None:
    [(found,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise _Damaged(found)


def _make(connection: sqlite3.Connection) -> None:
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    if version == _VERSION:
        return
    with closing(connection.cursor()) as cursor:
        for table in ("series", *TABLES):
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
        cursor.execute(
            "CREATE TABLE series (number INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE,"
            " kind TEXT NOT NULL, name TEXT NOT NULL, boot_id TEXT NOT NULL, pid INTEGER NOT NULL,"
            " start_ticks INTEGER NOT NULL, before TEXT NOT NULL)"
        )
        for table in TABLES:
            columns = ", ".join(f"{name} NUMERIC" for name in COLUMNS)
            cursor.execute(
                f"CREATE TABLE {table} (at REAL NOT NULL, series INTEGER NOT NULL, {columns},"
                " PRIMARY KEY (at, series)) WITHOUT ROWID"
            )
        cursor.execute(f"PRAGMA user_version = {_VERSION}")


def _processes(
    connection: sqlite3.Connection,
) -> Iterator[tuple[Uid, tuple[int, Process | None, Counters]]]:
    for row in connection.execute("SELECT * FROM series"):
        number, uid, _, _, boot_id, pid, start_ticks, before = row
        process = Process(boot_id, pid, start_ticks)
        yield Uid(uid), (number, process, Counters(**json.loads(before)))
