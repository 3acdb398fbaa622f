"""A run: one execution of a job, with its phases and the one table of the moves between them.

    queued --> booting --> running --> succeeded | failed | timeout
      ^           |           |
      `-----------+-----------'        an attempt that may be repeated, in a fresh VM
    queued, booting, running --> error | timeout | cancelled | interrupted

- queued       it has no VM; it waits for room, for its image, or for its next try
- booting      an attempt has a VM, and its script has certainly not begun
- running      its script may have begun: from here on nothing starts it again unless the document allows it
- succeeded    the guest itself wrote exit code 0
- failed       the guest itself wrote another exit code
- error        the machinery failed before the script began, as often as that is allowed
- timeout      the script was silent, or took, for too long
- cancelled    somebody wanted it no more
- interrupted  it was cut off after the script began, and nobody can tell how it would have ended
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from state.clock import Moment
from state.desired import SourceRef
from state.ids import Digest, Name, RunId, Uid
from state.work import Artifact


class RunPhase(StrEnum):
    """The recorded phase of a run."""

    QUEUED = "queued"
    BOOTING = "booting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether the run has its result."""
        return not MOVES[self]

    @property
    def active(self) -> bool:
        """Whether an attempt is under way."""
        return self in (RunPhase.BOOTING, RunPhase.RUNNING)


_CUT = frozenset({RunPhase.ERROR, RunPhase.TIMEOUT, RunPhase.CANCELLED, RunPhase.INTERRUPTED})

MOVES: dict[RunPhase, frozenset[RunPhase]] = {
    RunPhase.QUEUED: frozenset({RunPhase.BOOTING, *_CUT}),
    RunPhase.BOOTING: frozenset({RunPhase.QUEUED, RunPhase.RUNNING, *_CUT}),
    RunPhase.RUNNING: frozenset({RunPhase.QUEUED, RunPhase.SUCCEEDED, RunPhase.FAILED, *_CUT}),
    RunPhase.SUCCEEDED: frozenset(),
    RunPhase.FAILED: frozenset(),
    RunPhase.ERROR: frozenset(),
    RunPhase.TIMEOUT: frozenset(),
    RunPhase.CANCELLED: frozenset(),
    RunPhase.INTERRUPTED: frozenset(),
}


class IllegalRunMove(ValueError):
    """A move that the table does not have: a bug of the caller, never a condition of the world."""


def move(old: RunPhase, new: RunPhase) -> RunPhase:
    """`new`, if the table allows it from `old`; a phase that has not ended may be recorded again."""
    if new not in MOVES[old] and not (new is old and not old.ended):
        raise IllegalRunMove(f"a run cannot go from {old} to {new}")
    return new


@dataclass(frozen=True, slots=True)
class Spent:
    """How many retries a run has used, by whose fault they were needed."""

    infrastructure: int = 0
    interrupted: int = 0
    script: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job's spec, as it is recorded.

    `number` counts the runs of the name from 1. Times that end in `_at` are Unix seconds; `started_at` is when the
    script began, in the last attempt. `attempt` counts the attempts that were begun; `attempt_began` is the
    CLOCK_BOOTTIME of the last one, in the boot `boot_id`, and `not_before` that of the next try. `uid` is the attempt's
    instance, and `guest_boot` the boot of its guest in which the script was begun. After a failure the instance may be
    kept: as far as can be told until `kept_until` (Unix seconds), and in fact until `not_before`. `cancel` says why the
    run is to end, once somebody wants that.
    """

    id: RunId
    name: Name
    number: int
    spec: str
    spec_digest: Digest
    source: SourceRef
    phase: RunPhase
    queued_at: float
    reason: str = ""
    message: str = ""
    attempt: int = 0
    spent: Spent = field(default_factory=Spent)
    boot_id: str = ""
    attempt_began: float = 0.0
    not_before: float = 0.0
    began_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    uid: Uid | None = None
    guest_boot: str = ""
    kept_until: float | None = None
    cancel: str = ""
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()

    def keeps_its_vm(self, now: Moment) -> bool:
        """Whether the run has ended and its VM is still there for a look. That does not outlive a reboot, and a wall
        clock that steps makes it neither shorter nor longer."""
        kept = self.kept_until is not None and self.boot_id == now.boot_id
        return kept and self.not_before > now.boottime
