"""A moment, handed to whoever must know what time it is; no logic here or above reads a clock by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Moment:
    """`wall` is Unix time in seconds, for people; `boottime` is CLOCK_BOOTTIME in seconds, for every comparison.

    A wall clock can be wrong at boot and step while running. `boottime` counts suspended time too and starts anew with
    each boot, so it is only compared with a value of the same `boot_id`.
    """

    wall: float
    boottime: float
    boot_id: str


def stamp(unix: float | None) -> str | None:
    """Unix time as RFC 3339 in UTC, to the millisecond."""
    if unix is None:
        return None
    said = datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")
    return said.replace("+00:00", "Z")
