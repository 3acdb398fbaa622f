"""What every contender of a crowd can do: a script over bare QEMUs, libvirt, and holdfast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psutil

SWEEPS = 6
"""Questions to all of them in a row: as many as holdfast's meter takes to ask for everything once."""
IDLE = 60.0
"""Seconds for which an idle one is watched, once: all that holdfast does now and then comes in them, the look for
strangers once."""
REST = 60.0
"""Seconds after which whoever looks less often once nothing happens does so."""
LITTLE = 50_000_000
"""Nanoseconds on a processor."""
PATIENCE = 120.0
"""Seconds."""


class Keeper(Protocol):
    """Keeps a number of equal guests. Times are in milliseconds, and measured from where its user stands."""

    name: str

    def up(self, machines: int) -> float:
        """From none until so many have answered on their monitors."""

    def ask(self) -> float:
        """For the status and the block statistics of all."""

    def again(self) -> float:
        """For somebody new who knows nothing, until he has found all of them, with their statistics."""

    def weight(self) -> float | None:
        """Megabytes of what keeps them resident; None: nothing keeps them."""

    def idle(self, seconds: float) -> float | None:
        """Percent of a processor that it takes while nothing is asked for so long; None: nothing keeps them."""

    def down(self) -> float:
        """Until all of them are gone, with their files."""


def busy(pids: Sequence[int]) -> int:
    """Nanoseconds that these processes have been on a processor (`/proc/PID/task/TID/schedstat`)."""
    return sum(
        int(thread.read_text().split()[0])
        for pid in pids
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def at_rest(pids: Sequence[int]) -> None:
    """Wait until these processes have done little for half a second: whoever listens to two hundred is never quite
    still. Raises RuntimeError when they do not come to rest."""
    end, before = time.monotonic() + PATIENCE, busy(pids)
    while time.monotonic() < end:
        time.sleep(0.5)
        now = busy(pids)
        if now - before < LITTLE:
            return
        before = now
    raise RuntimeError(f"after {PATIENCE:g} s not at rest: {', '.join(map(str, pids))}")


def rested(pids: Sequence[int], seconds: float = REST) -> None:
    """Wait until nothing has been asked of them for so long."""
    at_rest(pids)
    time.sleep(seconds)


def idle(pids: Sequence[int], seconds: float) -> float:
    """Percent of a processor that they take while nobody asks for anything, and has not for as long."""
    rested(pids, min(REST, 2 * seconds))
    before, begun = busy(pids), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begun
    return (busy(pids) - before) / 1e7 / took


def resident(pids: Sequence[int]) -> float:
    """Megabytes, once they have come to rest."""
    at_rest(pids)
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6)
