"""The clocks of one attempt: how long its boot, its silence and all of it may take. It is told what happens and when,
and judges; it reads no clock. Times are of CLOCK_BOOTTIME, in seconds."""

from __future__ import annotations

from agent.jobs.outcome import Ending, Fault
from state.runs import Run, RunPhase
from state.spec.resolved_job import JobSpec

TAKEN_UP = 60.0
"""Seconds that an agent which takes up another's attempt has to see how far that is, before the clocks judge it: it may
have ended well long ago."""
CLOSING = 900.0
"""Seconds that what a script has left may take to come over, once its exit code is known."""


class Clocks:
    """`resumed`: another agent began the attempt."""

    def __init__(self, spec: JobSpec, now: float, *, resumed: bool) -> None:
        self._spec = spec
        self._judged_from = now + TAKEN_UP if resumed else now
        self._let_in = False
        self._heard = now
        self._ended_at = now

    def let_in(self) -> None:
        """The guest has let us in: its boot is over."""
        self._let_in = True

    def heard(self, now: float) -> None:
        """The script has begun, or has said something."""
        self._heard = now

    def seen(self, now: float) -> None:
        """It was seen how far the script is."""
        self._judged_from = min(self._judged_from, now)

    def ended(self, now: float) -> None:
        """The script's exit code is known."""
        self._ended_at = now

    def over(self, run: Run, now: float) -> Ending | None:
        """The end of the attempt, if a clock says so."""
        if run.exit_code is not None:
            # Its result is known, and no clock changes it.
            if now - self._ended_at <= CLOSING:
                return None
            return Ending("Closing", f"not all of it came within {CLOSING:g} s")
        if now < self._judged_from:
            return None
        spec, took = self._spec, now - run.attempt_began
        if took > spec.total:
            return Ending(
                "TotalTimeout", f"it took longer than {spec.total:g} s in all", fault=Fault.OVERDUE
            )
        if run.phase is RunPhase.RUNNING:
            if now - self._heard > spec.silence:
                return Ending("Silence", f"no output for {spec.silence:g} s", fault=Fault.SILENT)
        elif not self._let_in and took > spec.boot:
            return Ending("BootTimeout", f"no login within {spec.boot:g} s", fault=Fault.MACHINERY)
        return None
