"""The phases of an instance, and the one table of the moves between them.

What the ledger records of an instance, besides that any phase may be recorded again:

    pending ---> starting ---> running ---> stopping ---> (gone: the row is removed)

    starting, running ---> crashed ---> starting         it ended by itself, and is started again
    stopping ---> stopped ---> starting                  it was ended, its disk kept, and is wanted again
    stopping ---> starting                               it is wanted again before its end was recorded
    pending, starting, crashed, stopped ---> stopping    it is to go

- pending   it has a uid, a generation and leases; its files may or may not be there; no process was ever tried
- starting  a process is about to exist or exists inert; with a recorded process, that one
- running   the guest was let go (or is paused on purpose); the process is recorded
- stopping  its end was decided and may be half done
- stopped   its process was ended on purpose, or by its guest, and its disk is kept
- crashed   its process ended and nobody asked for it

What a person is shown adds what is observed just now: `paused`, `unresponsive`.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The recorded phase of an instance."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CRASHED = "crashed"


class Cause(StrEnum):
    """Why an instance has no running guest, as far as the next decision needs to know."""

    NONE = ""
    POWER = "power"
    """The document said `power: stopped`."""
    GUEST_OFF = "guest-off"
    """The guest powered itself off."""
    PANIC = "panic"
    EXIT = "exit"
    """The process ended: killed, crashed, or ended by somebody else."""
    REBOOT = "reboot"
    """The host went down under it."""


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PENDING, Phase.STARTING, Phase.STOPPING}),
    Phase.STARTING: frozenset({Phase.STARTING, Phase.RUNNING, Phase.CRASHED, Phase.STOPPING}),
    Phase.RUNNING: frozenset({Phase.RUNNING, Phase.STOPPING, Phase.CRASHED}),
    Phase.STOPPING: frozenset({Phase.STOPPING, Phase.STOPPED, Phase.STARTING}),
    Phase.STOPPED: frozenset({Phase.STARTING, Phase.STOPPING, Phase.STOPPED}),
    Phase.CRASHED: frozenset({Phase.STARTING, Phase.STOPPING, Phase.CRASHED}),
}


class IllegalMove(ValueError):
    """A move that the table does not have: a bug of the caller, never a condition of the world."""


def move(old: Phase, new: Phase) -> Phase:
    """`new`, if the table allows it from `old`."""
    if new not in MOVES[old]:
        raise IllegalMove(f"an instance cannot go from {old} to {new}")
    return new
