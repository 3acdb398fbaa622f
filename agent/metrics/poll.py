"""Polls what machines use, at even intervals, and has it kept.

It decides nothing and nothing waits for it: a host or a disk that is in trouble costs samples. On a disk that is nearly
full it is the first that stops writing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from agent.errors import HoldfastError
from agent.hypervisor.api import Meter, Usage
from agent.intent import Clock
from agent.logger import structlog
from agent.paths import identity
from agent.worker import Worker
from state.ids import Uid
from state.ledger import Ledger
from state.metrics import Keep, Look, Metrics
from state.samples import MetricsUnusable

INTERVAL = 10.0
"""Seconds from one sweep to the next, where nothing else is said."""
SCARCE = 32 << 20
"""Bytes that must be free for a sweep to be written: what is left belongs to the ledger and to guests."""

_log = structlog.get_logger()


class Poller:
    """Of the machines in one ledger."""

    def __init__(  # noqa: PLR0913 - what the agent's parts share
        self,
        meter: Meter,
        ledger: Ledger,
        path: Path,
        clock: Clock,
        interval: float = INTERVAL,
        keep: Keep | None = None,
    ) -> None:
        """`path` is the database of what is kept."""
        self.latest: Mapping[Uid, Usage] = {}
        """What the last sweep found."""
        self._meter, self._ledger, self._clock = meter, ledger, clock
        self._interval = interval
        self._store = _Store(path, keep)
        self._worker: Worker | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Poll, for ever, whatever a sweep meets."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                try:
                    await self._sweep()
                except (MetricsUnusable, HoldfastError) as error:
                    self._say("trouble", str(error))
                except Exception as bug:  # noqa: BLE001 - machines are kept without metrics, too
                    self._say("bug", f"the sweep met a bug of holdfast: {bug!r}")
                else:
                    self._say("", "")
                # A sweep that was late is not made good by another one at once.
                due = max(due + self._interval, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            self._meter.close()
            if self._worker is not None:
                self._worker.leave(self._store.close)

    async def _sweep(self) -> None:
        live = [one for one in self._ledger.instances() if one.process is not None]
        used = await self._meter.read({one.uid: one.process for one in live if one.process})
        self.latest = used
        looks = [
            Look(one.uid, one.kind, one.name, used[one.uid]) for one in live if one.uid in used
        ]
        self._worker = self._worker or Worker("metrics")
        await self._worker.submit(partial(self._store.add, self._clock().wall, looks))

    def _say(self, kind: str, why: str) -> None:
        """Each kind of trouble once, not every few seconds."""
        if kind and kind != self._trouble:
            _log.warning("metrics are not kept", why=why)
        elif self._trouble and not kind:
            _log.info("metrics are kept again")
        self._trouble = kind


class _Store:
    """The database, opened when there is something to keep; used in one thread."""

    def __init__(self, path: Path, keep: Keep | None) -> None:
        self._path, self._keep = path, keep
        self._open: Metrics | None = None
        self._opened: tuple[int, int] | None = None

    def add(self, at: float, looks: list[Look]) -> None:
        """Raises MetricsUnusable."""
        if not looks and self._open is None:
            return
        if (free := _free(self._path.parent)) < SCARCE:
            raise MetricsUnusable(f"only {free >> 20} MiB are free on the disk of {self._path}")
        if self._open is not None and identity(self._path) != self._opened:
            self.close()  # somebody has removed it
        try:
            if self._open is None:
                self._open = Metrics(self._path, self._keep)
                self._opened = identity(self._path)
            self._open.add(at, looks)
        except MetricsUnusable:
            self.close()  # as it is opened again, what is damaged is mended
            raise

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _free(directory: Path) -> int:
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise MetricsUnusable(
            f"nothing can be told of the disk of {directory}: {error.strerror}"
        ) from error
    return found.f_bavail * found.f_frsize
