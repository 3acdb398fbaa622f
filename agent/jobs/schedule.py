"""Which queued runs may begin now, and what each of the others waits for. Pure.

Runs stand in one line: the highest priority first, then the oldest. What all of them share (places and memory) goes
strictly by the line, so that a large run is not overtaken for ever by small ones behind it. What belongs to one label
goes by that label alone: a label that has no room lets the others past, and holds none of the places. A run that would
find too little room though no other ran stands in nobody's way: nothing that the line does brings its turn nearer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from state.ids import RunId
from state.spec.units import format_size


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run as far as its place in the line goes. `labels` are the words that mean its image: the one that its document
    says, and the image's own. `memory` and `disk` are the bytes that it may come to use."""

    id: RunId
    labels: frozenset[str]
    memory: int
    disk: int
    priority: int
    queued_at: float


@dataclass(frozen=True, slots=True)
class Room:
    """What runs may use. `memory` and `disk`: bytes that are free for further runs, None where nobody counts."""

    places: int
    labels: Mapping[str, int] = field(default_factory=dict)
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True, slots=True)
class Never:
    """Why no end of another run brings the turn of this one: a word for programs, and a sentence."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Turns:
    """`begin` in the order of the line; `waits` says for every other queued run what it waits for, and `never` for
    those that wait for nothing that other runs could give."""

    begin: tuple[RunId, ...]
    waits: Mapping[RunId, str]
    never: Mapping[RunId, Never] = field(default_factory=dict)


def schedule(queued: Iterable[Candidate], active: Iterable[Candidate], room: Room) -> Turns:
    """Whose turn it is. What is `active` already has its memory and disk: `room` counts what is left beside it."""
    line = sorted(queued, key=lambda one: (-one.priority, one.queued_at, one.id))
    under_way = list(active)
    busy = Counter(label for one in under_way for label in one.labels)
    places, memory, disk = room.places - len(under_way), room.memory, room.disk
    begin: list[RunId] = []
    waits: dict[RunId, str] = {}
    never: dict[RunId, Never] = {}
    idle = Room(
        room.places,
        room.labels,
        None if memory is None else memory + sum(one.memory for one in under_way),
        None if disk is None else disk + sum(one.disk for one in under_way),
    )
    blocked = ""
    for one in line:
        if (why := _never(one, idle)) is not None:
            never[one.id] = why
            continue
        full = next((label for label in sorted(one.labels) if _full(label, busy, room)), None)
        if full is not None:
            waits[one.id] = f"capacity: {full} {busy[full]} of {room.labels[full]}"
            continue
        blocked = blocked or _shortage(one, places, memory, disk, room)
        if blocked:
            waits[one.id] = blocked
            continue
        begin.append(one.id)
        busy.update(one.labels)
        places -= 1
        memory = None if memory is None else memory - one.memory
        disk = None if disk is None else disk - one.disk
    return Turns(tuple(begin), waits, never)


def _never(one: Candidate, idle: Room) -> Never | None:
    """Why it would not begin though no other ran: `idle` is what there is then."""
    if (
        label := next((one for one in sorted(one.labels) if idle.labels.get(one) == 0), None)
    ) is not None:
        return Never("NoCapacity", f"capacity: {label} 0 of 0, so that none may run here")
    for reason, word, needs, most in (
        ("NotEnoughMemory", "memory", one.memory, idle.memory),
        ("NotEnoughDisk", "disk", one.disk, idle.disk),
    ):
        if most is not None and needs > most:
            why = f"{word}: it needs {format_size(needs)}, {_left(most)} free where no job runs"
            return Never(reason, why)
    return None


def _full(label: str, busy: Counter[str], room: Room) -> bool:
    most = room.labels.get(label)
    return most is not None and busy[label] >= most


def _shortage(one: Candidate, places: int, memory: int | None, disk: int | None, room: Room) -> str:
    """What the first in line has not got, empty when it has all."""
    if places <= 0:
        return f"capacity: {room.places} of {room.places} jobs"
    if memory is not None and one.memory > memory:
        return f"memory: the first in line needs {format_size(one.memory)}, {_left(memory)} free"
    if disk is not None and one.disk > disk:
        return f"disk: the first in line needs {format_size(one.disk)}, {_left(disk)} free"
    return ""


def _left(size: int) -> str:
    mib = max(0, size) >> 20
    return f"{format_size(mib << 20) if mib else 'none'} {'are' if mib else 'is'}"
