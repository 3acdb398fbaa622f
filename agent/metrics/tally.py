"""Counts what an agent does while it lives, from what its parts tell anyhow. A new agent counts from 0, as Prometheus
expects of counters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent.record import Pass
from state.history import Event
from state.ids import RunId
from state.runs import Run, RunPhase

PASS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
START_SECONDS = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
WAIT_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
RUN_SECONDS = (1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_WAKES = frozenset({"timer", "start", "stop", "strangers", "files changed"})


@dataclass
class Spread:
    """How often a time was how long: a count for each bound, as histograms of Prometheus have it."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """One more."""
        self.total += seconds
        at = next((n for n, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))
        self.counts[at] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound, and how many were no longer."""
        known, told = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            known += count
            told.append((bound, float(known)))
        return told


class Tally:
    """Written to by the event loop alone; read by any thread, which may miss the last moment."""

    def __init__(self) -> None:
        self.passes = Spread(PASS_SECONDS)
        self.last_pass: float | None = None
        """Unix seconds."""
        self.interval: float | None = None
        """Seconds from one pass to the next where nothing wakes the loop; None: not told."""
        self.wakes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.starts = Spread(START_SECONDS)
        """From the beginning of an attempt to that of its script."""
        self.waits = Spread(WAIT_SECONDS)
        self.runs: dict[str, Spread] = {}
        self.retried = 0
        """Attempts of runs beyond the first."""
        self.ready: dict[str, Spread] = {}
        """From the start of a VM to when it first became ready, by what it was asked over: ssh, tcp, http."""
        self.fetched_bytes = 0
        """Of images."""
        self._phases: dict[RunId, RunPhase] = {}

    def passed(self, done: Pass, wall: float) -> None:
        """One pass of the loop, at `wall` (Unix seconds)."""
        self.passes.add(done.seconds)
        self.last_pass = wall
        for reason in done.reasons:
            self.wakes[_kind(reason)] += 1

    def became_ready(self, check: str, seconds: float) -> None:
        """A VM has passed its first `check`, so long after its start."""
        self.ready.setdefault(check, Spread(START_SECONDS)).add(seconds)

    def fetched(self, size: int) -> None:
        """So many bytes of an image have come."""
        self.fetched_bytes += size

    def happened(self, event: Event) -> None:
        """One event of the ledger. Their reasons are a closed vocabulary."""
        self.events[event.reason] += 1

    def found(self, run: Run) -> None:
        """A run that is there as the agent begins: what it had come to by then was counted by the one before."""
        if not run.phase.ended:
            self._phases[run.id] = run.phase

    def ran(self, run: Run) -> None:
        """A run was recorded, in whatever phase."""
        before = self._phases.pop(run.id, None)
        if not run.phase.ended:
            self._phases[run.id] = run.phase
        if run.phase is before or run.began_at is None:
            return
        if run.phase is RunPhase.BOOTING and run.attempt == 1:
            self.waits.add(run.began_at - run.queued_at)
        elif run.phase is RunPhase.BOOTING:
            self.retried += 1
        elif run.phase is RunPhase.RUNNING and run.started_at is not None:
            self.starts.add(run.started_at - run.began_at)
        elif before is not None and run.phase.ended and run.ended_at is not None:
            spread = self.runs.setdefault(run.phase.value, Spread(RUN_SECONDS))
            spread.add(run.ended_at - run.began_at)


def _kind(reason: str) -> str:
    """What woke the loop, without the name that it was about: those have no end."""
    if reason in _WAKES:
        return reason
    if reason.startswith("image "):
        return "image"
    if "repository" in reason:
        return "repository"
    return "machine" if ": " in reason or reason.endswith("ready") else "other"
