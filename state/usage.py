"""What machines use of their host: as one look at a process finds it, and as it is kept over the life of a machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from typing import Any

from state.ids import Process
from state.observed import RunState

MOST = (1 << 63) - 1
"""What a counter can come to that is kept in SQLite."""
ROOT = "root"
"""The name of the disk that a guest boots from."""


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What a guest has moved through one of its disks: bytes and requests since its process began, and the seconds that
    those took altogether."""

    name: str
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """One process of a machine as it was found just now. Counters begin at 0 with the process; what cannot be told is
    None, and never 0.

    `cpu_seconds`: processor time of the host that the whole process has taken; `vcpu_seconds` that of the threads that
    are the guest's processors, by their number. `resident_bytes` is memory of the host. `allocated_bytes` is what its
    own disk takes up on the host's. `balloon_bytes` is the memory that the guest is left with; `guest_total_bytes` and
    `guest_available_bytes` are what its kernel says of that, through a balloon driver of its own.
    """

    process: Process
    state: RunState
    cpu_seconds: float
    vcpu_seconds: tuple[float, ...]
    resident_bytes: int
    allocated_bytes: int | None
    disks: tuple[DiskUsage, ...]
    balloon_bytes: int | None = None
    guest_total_bytes: int | None = None
    guest_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What only ever grows: seconds of processor time, and what has gone through the root disk."""

    cpu_seconds: float = 0.0
    vcpu_seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Counters:
        """Those of one process."""
        root = next((disk for disk in usage.disks if disk.name == ROOT), DiskUsage(ROOT))
        return cls(
            usage.cpu_seconds,
            sum(usage.vcpu_seconds),
            root.read_bytes,
            root.written_bytes,
            root.reads,
            root.writes,
        )

    def plus(self, other: Counters) -> Counters:
        """Both together, as far as can be kept: QEMU may say any number, and belong to its guest."""
        return Counters(
            *(
                min(one + more, MOST)
                for one, more in zip(_values(self), _values(other), strict=True)
            )
        )

    def minus(self, other: Counters) -> Counters:
        """What was added to `other`."""
        return Counters(*(map(sub, _values(self), _values(other))))


@dataclass(frozen=True, slots=True)
class Sample:
    """What a machine has used until `at` (Unix seconds). `used` counts over its whole life, whatever processes and
    agents it has had; the rest is as it was then, or on an average of the time that the sample stands for. What could
    not be told is None."""

    at: float
    used: Counters
    resident_bytes: int
    allocated_bytes: int | None = None
    balloon_bytes: int | None = None
    guest_total_bytes: int | None = None
    guest_available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """What a machine has used in the `seconds` before `sample`: a processor that is always busy is a `cpu` of 1."""

    sample: Sample
    seconds: float
    cpu: float
    vcpu: float
    read_bytes: float
    written_bytes: float
    reads: float
    writes: float


def rates(samples: Iterable[Sample]) -> list[Rate]:
    """From each sample to the next, in the order of time. Over a time in which nobody looked that is an average, and no
    peak."""
    found = []
    for before, after in pairwise(samples):
        seconds = after.at - before.at
        if seconds > 0:
            each = (value / seconds for value in _values(after.used.minus(before.used)))
            found.append(Rate(after, seconds, *each))
    return found


def _values(counters: Counters) -> tuple[Any, ...]:
    return (
        counters.cpu_seconds,
        counters.vcpu_seconds,
        counters.read_bytes,
        counters.written_bytes,
        counters.reads,
        counters.writes,
    )
