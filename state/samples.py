"""Reads what machines have used, from where `state.metrics` keeps it: a table for each resolution, whose rows tell what
a machine had used over its whole life until some moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from state import database
from state.ids import Name, Uid
from state.usage import Counters, Sample

COUNTED = ("cpu_seconds", "vcpu_seconds", "read_bytes", "written_bytes", "reads", "writes")
MEASURED = (
    "resident_bytes",
    "allocated_bytes",
    "balloon_bytes",
    "guest_total_bytes",
    "guest_available_bytes",
)
COLUMNS = (*COUNTED, *MEASURED)
TABLES = ("looks", "minutes", "hours")
_LATE = 120
"""Seconds that the oldest row of a table may be younger than what is to be kept there: rows go once a minute, and stand
for as much."""
_RECENT, _MISSED = 90.0, 2.5
"""Seconds, and times what lies between two looks, after which the last one is not told any more."""


class MetricsUnusable(Exception):
    """The file cannot be written or read; the text says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """One machine that something is known of, living or not."""

    number: int
    uid: Uid
    kind: str
    name: Name


class MetricsReader:
    """Reads what an agent has written, also while it writes."""

    def __init__(self, path: Path) -> None:
        """Raises MetricsUnusable, also where there is nothing yet."""
        with translated():
            if not path.exists():
                raise MetricsUnusable("no agent has measured anything yet")
            uri = f"{path.as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=database.OPENING)

    def close(self) -> None:
        self._connection.close()

    def series(self, name: Name | None = None) -> list[Series]:
        """Those of a name, or all; the oldest first."""
        rows = self._rows(
            "SELECT number, uid, kind, name FROM series WHERE ? IS NULL OR name = ? ORDER BY number",
            [name, name],
        )
        return [Series(number, Uid(uid), kind, Name(of)) for number, uid, kind, of in rows]

    def samples(self, of: Series, since: float) -> list[Sample]:
        """What is known since then (Unix seconds), in the finest resolution that reaches back so far, or as far as
        anything; the last moments, which have not become coarse yet, in finer ones."""
        found: list[Sample] = []
        for table in reversed(TABLES[: self._reaching(since) + 1]):
            after = found[-1].at if found else since
            rows = self._rows(
                f"SELECT at, {', '.join(COLUMNS)} FROM {table}"  # noqa: S608
                " WHERE at >= ? AND series = ? ORDER BY at",
                [after, of.number],
            )
            found += [_sample(row) for row in rows if not found or row[0] > after]
        return found

    def recent(self, now: float) -> dict[Uid, list[Sample]]:
        """The last three looks, by machine, in the order of time; nothing once nobody looks any more, or has for as
        long as two looks lie apart, and a minute and a half."""
        times = self._rows("SELECT DISTINCT at FROM looks ORDER BY at DESC LIMIT 3", [])
        looked = [at for (at,) in times]
        apart = min((later - at for later, at in pairwise(looked)), default=0.0)
        if not looked or looked[0] < now - max(_RECENT, _MISSED * apart):
            return {}
        rows = self._rows(
            f"SELECT uid, at, {', '.join(COLUMNS)} FROM looks JOIN series ON series = number"  # noqa: S608
            " WHERE at >= ? ORDER BY at",
            [looked[-1]],
        )
        found: dict[Uid, list[Sample]] = {}
        for uid, *row in rows:
            found.setdefault(Uid(uid), []).append(_sample(row))
        return found

    def _reaching(self, since: float) -> int:
        """The number of the finest table that reaches back so far."""
        oldest = [self._rows(f"SELECT min(at) FROM {table}", [])[0][0] for table in TABLES]  # noqa: S608
        known = [at for at in oldest if at is not None]
        wanted = max(since, min(known, default=since)) + _LATE
        return next(
            (n for n, at in enumerate(oldest) if at is not None and at <= wanted), len(TABLES) - 1
        )

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with translated():
            return self._connection.execute(sql, values).fetchall()


def _sample(row: Sequence[Any]) -> Sample:
    at, *values = row
    counted = len(COUNTED)
    return Sample(at, Counters(*values[:counted]), *values[counted:])


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, LookupError, TypeError, ValueError) as error:
        raise MetricsUnusable(f"the metrics database cannot be used: {error}") from error
