"""What is shown of a state directory over HTTP: each view reads the ledger, the metrics and the logs as commands do, in
whatever thread it is called.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.errors import BadInput, Blocked
from agent.metrics.figures import told
from agent.paths import StatePaths
from agent.status import status
from state.clock import stamp
from state.history import Event
from state.ids import Name
from state.observed import Instance
from state.records import Reader
from state.samples import MetricsReader, MetricsUnusable
from state.usage import rates

Alive = Callable[[Reader], Callable[[Instance], bool]]
"""How to tell, from a ledger, which of the recorded processes still run."""
Log = Literal["log", "console", "qemu"]
LOGS: tuple[Log, ...] = ("log", "console", "qemu")
TAIL = 64 << 10
"""Bytes of a log that are shown of what was written before somebody looked."""
MOST = 256 << 10
"""Bytes of a log that are told at once."""
AT_ONCE = 100
"""Events that are told at once to who follows them."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a log has been read: which file, and the bytes of it."""

    file: str = ""
    offset: int = 0


class Views:
    """Of one state directory, for the agent that holds it. Each raises LedgerUnreadable; of a name that is not there
    BadInput."""

    def __init__(self, paths: StatePaths, alive: Alive) -> None:
        self._paths, self._alive = paths, alive

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The ledger, read-only."""
        with closing(Reader.open(self._paths.database)) as reader:
            yield reader

    def status(self) -> dict[str, Any]:
        """The shape of `status -o json`."""
        with self.reading() as reader:
            return self.status_of(reader)

    def status_of(self, reader: Reader) -> dict[str, Any]:
        """The same, read with others."""
        return status(reader, self._paths, agent_pid=os.getpid(), alive=self._alive(reader))

    def events(self, after: int, last: int, name: str | None = None) -> list[dict[str, Any]]:
        """The `last` events with an id above `after`, the oldest first."""
        with self.reading() as reader:
            return _events(reader.events(name=Name(name) if name else None, after=after, last=last))

    def next_events(self, after: int) -> list[dict[str, Any]]:
        """The next `AT_ONCE` events after the one with that id; the last ones after 0."""
        with self.reading() as reader:
            return _events(
                reader.events(after=after, first=AT_ONCE) if after else reader.events(last=AT_ONCE)
            )

    def metrics(self, name: str, since: float) -> list[dict[str, Any]]:
        """What a name has used since then (Unix seconds), the oldest first; empty where nothing was measured."""
        try:
            with closing(MetricsReader(self._paths.metrics)) as reader:
                found = [
                    told(one.uid, rate)
                    for one in reader.series(Name(name))
                    for rate in rates(reader.samples(one, since))
                ]
        except MetricsUnusable:
            return []
        return sorted(found, key=lambda one: str(one["at"]))

    def usage(self, now: float) -> dict[str, dict[str, Any]]:
        """The last that was measured of each machine lately, by uid."""
        try:
            with closing(MetricsReader(self._paths.metrics)) as reader:
                latest = reader.recent(now)
        except MetricsUnusable:
            return {}
        return {
            uid: told(uid, known[-1])
            for uid, samples in latest.items()
            if (known := rates(samples))
        }

    def log(self, name: str, log: Log, place: Place) -> tuple[Place, str]:
        """What was written behind `place`, and how far that is; from the beginning of its last part on where that is
        another file by now. Raises BadInput where the name has no such log, and Blocked where it cannot be read."""
        path = self._log(Name(name), log)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return Place(), ""
        except OSError as error:
            raise Blocked(f"reading the log of {name}: {error.strerror}") from error
        with open(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Blocked(f"reading the log of {name}: it is no file")
            known = f"{found.st_dev:x}-{found.st_ino:x}"
            at = place.offset if place.file == known else max(0, found.st_size - TAIL)
            file.seek(0 if at > found.st_size else at)
            begin = file.tell()
            text, read = _decoded(file.read(MOST))
        return Place(known, begin + read), text

    def _log(self, name: Name, log: Log) -> Path:
        with self.reading() as reader:
            if log == "log":
                run = reader.spoken_of().get(name)
                if run is not None:
                    return self._paths.run(run.id).log
                raise BadInput(f"there is no job `{name}` that has run here")
            mine = [one for one in reader.instances() if one.name == name]
        started = [one for one in mine if one.started_at is not None] or mine
        if not started:
            raise BadInput(f"there is no VM `{name}` here")
        files = self._paths.instance(started[-1].uid)
        return files.console_log if log == "console" else files.qemu_log


def _decoded(data: bytes) -> tuple[str, int]:
    """The text, and how many of the bytes it is made of: a character whose end is still to come is left."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    kept = decoder.getstate()[0]
    return text, len(data) - len(kept)


def _events(found: Iterable[Event]) -> list[dict[str, Any]]:
    return [
        {
            "id": one.id,
            "at": stamp(one.at),
            "kind": one.kind,
            "name": one.name,
            "uid": one.uid,
            "reason": one.reason,
            "message": one.message,
            "pass": one.pass_id or None,
        }
        for one in found
    ]
