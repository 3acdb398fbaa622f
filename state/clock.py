"""A moment, handed to whoever must know what time it is; no logic here or above reads a clock by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """`wall` is Unix time in seconds, for people; `boottime` is CLOCK_BOOTTIME in seconds, for every comparison.

    A wall clock can be wrong at boot and step while running. `boottime` counts suspended time too and starts anew with
    each boot, so it is only compared with a value of the same `boot_id`.
    """

    wall: float
    boottime: float
    boot_id: str
