"""Rows of the ledger as the nouns they stand for, and a reader that any process may open beside a running agent.

It refuses to write: that is `state.ledger`'s. It uses the standard library's sqlite3 alone, so that `holdfast status`
answers at once.
"""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from state.desired import SourceRef
from state.fields import shallow
from state.history import Event, Finding, StepRecord
from state.ids import Digest, Name, Process, Uid
from state.lifecycle import Cause, Phase
from state.observed import BaseImage, Instance, NameRecord, Retry
from state.run_rows import run_of
from state.runs import Run
from state.spec.resolved import Forward

T = TypeVar("T")

SOURCE_KEY = "source"
GONE_BACK_KEY = "gone-back"
"""Of each job whose document says again what an earlier run has run: the id of that run."""
SETTINGS_KEY = "settings"
PUBLISHED_KEY = "published"
"""The ref that the status was pushed to, as which commit, and why it could not be the last time."""
SUSPENDED_KEY = "suspended"
"""Since when everything is left alone, Unix time; empty: it is not."""
APPROVED_KEY = "approved"
"""The uids of VMs that a person lets be destroyed, as a list."""
FENCE_KEY = "fence"
"""Whether an agent of this state has put up the fence around guests; empty: no."""
ACCELERATOR_KEY = "accelerator"
"""Single values of the ledger, each JSON: which source was read last, the agent's settings, what runs the guests and
why."""


class LedgerUnreadable(Exception):
    """The database cannot be read; the text says why."""


class LedgerDamaged(LedgerUnreadable):
    """What lies in the file is no sound database, and no waiting mends it."""


def instance_row(instance: Instance, *, qmp: str) -> dict[str, Any]:
    """The row of an instance; `qmp` is the path of its control socket."""
    process = instance.process
    base = shallow(instance.base) | {"path": str(instance.base.path)}
    return {
        "uid": instance.uid,
        "kind": instance.kind,
        "name": instance.name,
        "generation": instance.generation,
        "phase": instance.phase.value,
        "cause": instance.cause.value,
        "spec": instance.spec,
        "spec_digest": instance.spec_digest,
        "base": json.dumps(base, sort_keys=True),
        "accelerator": instance.accelerator,
        "source_file": instance.source.file,
        "source_line": instance.source.line,
        "source_commit": instance.source.commit,
        "created_at": instance.created_at,
        "boot_id": process.boot_id if process else None,
        "pid": process.pid if process else None,
        "start_ticks": process.start_ticks if process else None,
        "qmp": qmp,
        "forwards": json.dumps([shallow(forward) for forward in instance.forwards]),
        "ssh_port": instance.ssh_port,
        "run_as": instance.run_as,
        "started_at": instance.started_at,
        "ready_at": instance.ready_at,
        "restarts": instance.restarts,
        "detail": instance.detail,
        "unhealthy": instance.unhealthy,
    }


def instance_of(row: Mapping[str, Any]) -> Instance:
    """The instance that `instance_row` made the row of, in this version or an earlier one."""
    base = json.loads(row["base"])
    process = (
        Process(row["boot_id"], row["pid"], row["start_ticks"]) if row["pid"] is not None else None
    )
    return Instance(
        uid=Uid(row["uid"]),
        kind=row["kind"],
        name=Name(row["name"]),
        generation=row["generation"],
        phase=Phase(row["phase"]),
        cause=Cause(row["cause"]),
        spec=row["spec"],
        spec_digest=Digest(row["spec_digest"]),
        base=BaseImage(
            path=Path(base["path"]),
            format=base["format"],
            virtual_size=base["virtual_size"],
            digest=Digest(base["digest"]),
        ),
        accelerator=row["accelerator"],
        source=SourceRef(row["source_file"], row["source_line"], row["source_commit"]),
        created_at=row["created_at"],
        process=process,
        forwards=tuple(Forward(**forward) for forward in json.loads(row["forwards"])),
        ssh_port=row["ssh_port"],
        run_as=row["run_as"],
        started_at=row["started_at"],
        ready_at=row["ready_at"],
        restarts=row["restarts"],
        detail=row["detail"],
        unhealthy=_since(row, "unhealthy", ""),
    )


def _since(row: Mapping[str, Any], column: str, default: str) -> str:
    """What stands in a column that rows and files of an earlier version have not got."""
    return row[column] if column in row.keys() else default  # noqa: SIM118 - a Row iterates over its values


def _pick(kind: type[T], row: Mapping[str, Any]) -> T:
    """The `kind` whose fields are columns of the row; a later version may have added others."""
    return kind(**{field: row[field] for field in kind.__slots__})  # type: ignore[attr-defined]


class Reader:
    """Reads a ledger. Each call sees one consistent moment; `snapshot` makes several calls see the same one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.row_factory = sqlite3.Row

    @classmethod
    def open(cls, path: Path) -> Reader:
        """Open read-only. Raises LedgerUnreadable where there is no usable database."""
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise LedgerUnreadable("there is no state database yet") from error
        except OSError as error:
            raise LedgerUnreadable(
                f"the state database cannot be read: {error.strerror}"
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise LedgerUnreadable(f"the state database cannot be read: {path} is no file")
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        except sqlite3.Error as error:
            connection.close()
            raise LedgerUnreadable(f"the state database cannot be read: {error}") from error
        if made is None:
            connection.close()
            raise LedgerUnreadable("the state database is only being made")
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> Iterable[sqlite3.Row]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise LedgerUnreadable(f"the state database cannot be read: {error}") from error

    def _made(
        self, make: Callable[[dict[str, Any]], T], sql: str, values: Sequence[Any] = ()
    ) -> list[T]:
        try:
            return [make(dict(row)) for row in self._rows(sql, values)]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerUnreadable(
                f"the state database holds what this version does not understand: {error!r}"
            ) from error

    def meta(self, key: str) -> str | None:
        """One of the single values, None where it was never set."""
        return next(
            (row["value"] for row in self._rows("SELECT value FROM meta WHERE key = ?", [key])),
            None,
        )

    def instances(self) -> list[Instance]:
        """Every instance, oldest generation of each name first."""
        return self._made(instance_of, "SELECT * FROM instances ORDER BY name, generation")

    def runs(self, name: Name | None = None) -> list[Run]:
        """Every remembered run, or those of one job, oldest of each name first."""
        sql = "SELECT * FROM runs WHERE ? IS NULL OR name = ? ORDER BY name, number"
        return self._made(run_of, sql, [name, name])

    def spoken_of(self) -> dict[Name, Run]:
        """Of each job the run to speak of: the latest one; where that has ended, and the document says again what an
        earlier run has run, that one."""
        runs = self.runs()
        told = {run.name: run for run in runs}
        gone_back = json.loads(self.meta(GONE_BACK_KEY) or "{}")
        again = [run for run in runs if gone_back.get(run.name) == run.id]
        return told | {run.name: run for run in again if told[run.name].phase.ended}

    def qmp_sockets(self) -> dict[Uid, str]:
        """The control socket of each instance."""
        return {Uid(row["uid"]): row["qmp"] for row in self._rows("SELECT uid, qmp FROM instances")}

    def names(self) -> dict[Name, NameRecord]:
        """Every name that is remembered."""
        made = self._made(lambda row: _pick(NameRecord, row), "SELECT * FROM names")
        return {record.name: record for record in made}

    def retries(self) -> dict[str, Retry]:
        """Everything that failed and is waiting to be tried again, or that has failed lately."""
        made = self._made(lambda row: _pick(Retry, row), "SELECT * FROM retries")
        return {retry.key: retry for retry in made}

    def findings(self) -> dict[str, Finding]:
        """The last pass's report, by key."""
        made = self._made(
            lambda row: (str(row["key"]), _pick(Finding, row)),
            "SELECT * FROM findings ORDER BY key",
        )
        return dict(made)

    def events(
        self,
        *,
        name: Name | None = None,
        after: int = 0,
        last: int | None = None,
        first: int | None = None,
    ) -> list[Event]:
        """Events in the order they happened, those with an id above `after`; only the `last` or the `first` so many."""
        forward, many = (True, first) if first is not None else (False, last)
        order = "ASC" if forward else "DESC"
        sql = (
            "SELECT * FROM events WHERE id > ? AND (? IS NULL OR name = ?)"  # noqa: S608
            f" ORDER BY id {order} LIMIT ?"
        )
        values = [after, name, name, -1 if many is None else many]
        found = [
            Event(
                at=row["at"],
                reason=row["reason"],
                message=row["message"],
                name=row["name"],
                uid=row["uid"],
                kind=row["kind"],
                pass_id=row["pass"] or "",
                id=row["id"],
            )
            for row in self._rows(sql, values)
        ]
        return found if forward else found[::-1]

    def steps(
        self, *, name: Name | None = None, open_only: bool = False, last: int = 20
    ) -> list[StepRecord]:
        """The last steps, oldest first; only those that have not ended with `open_only`."""
        rows = self._rows(
            "SELECT * FROM steps WHERE (? IS NULL OR name = ?) AND (NOT ? OR ended_at IS NULL)"
            " ORDER BY id DESC LIMIT ?",
            [name, name, open_only, last],
        )
        return [
            StepRecord(
                id=row["id"],
                pass_id=row["pass"],
                action=row["action"],
                kind=row["kind"],
                name=Name(row["name"]),
                because=row["because"] or "",
                begun_at=row["begun_at"],
                uid=row["uid"],
                generation=row["generation"],
                ended_at=row["ended_at"],
                outcome=row["outcome"],
                error=row["error"],
            )
            for row in rows
        ][::-1]
