"""Contenders of one figure take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Contender = Callable[[], float]
"""Does it once and says what it took, in the figure's unit."""
Profile = Callable[[], list[str]]
"""Does it once more and says where the time goes, a line for each place."""


@dataclass(frozen=True)
class Figure:
    """The samples of each contender, the floor's first; `limit` is what the last may take, in the unit, None where
    nothing is asked of it. Figures of one `series` differ in the `size` of what is measured, a number `of` something:
    they show how it grows."""

    name: str
    unit: str
    samples: dict[str, list[float]]
    limit: float | None
    rule: str
    series: str = ""
    size: int = 0
    of: str = "VMs"
    profile: Profile | None = field(default=None, compare=False)
    note: str = ""
    """Where it may be missed: what that is paid for, or what stands in the way."""

    @property
    def medians(self) -> dict[str, float]:
        """Of each contender."""
        return {who: statistics.median(taken) for who, taken in self.samples.items()}

    @property
    def met(self) -> bool:
        """Whether the last contender's median is within the limit."""
        return self.limit is None or list(self.medians.values())[-1] <= self.limit

    @property
    def verdict(self) -> str:
        """One word."""
        return "" if self.limit is None else "met" if self.met else "MISSED"

    def ratio(self, who: str) -> float:
        """Of a contender's median to the floor's."""
        floor = next(iter(self.medians.values()))
        return self.medians[who] / floor if floor else 0.0

    def rows(self) -> list[str]:
        """A line for each contender: median, minimum, maximum and the ratio to the floor."""
        asked = f": {self.rule}: {self.verdict}" if self.verdict else ""
        lines = [f"{self.name} ({self.unit}){asked}"]
        for who, taken in self.samples.items():
            lines.append(
                f"  {who:<28} median {short(self.medians[who]):>9}  min {short(min(taken)):>9}"
                f"  max {short(max(taken)):>9}"
                f"  ratio {self.ratio(who):6.2f}  n {len(taken)}"
            )
        return lines


def short(value: float) -> str:
    """A number in three digits, or more where it is large."""
    return f"{value:,.{next((n for n, least in enumerate((100, 10, 1)) if value >= least), 3)}f}"


def peak() -> float:
    """MB that this program has had resident at most (`VmHWM` of proc(5)). What `getrusage` tells of a new program
    begins with what the one had that began it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not tell VmHWM")


def alternate(rounds: int, **contenders: Contender) -> dict[str, list[float]]:
    """`rounds` samples of each, one after the other; a first turn of each is thrown away."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            gc.collect()
            taken = contender()
            if number:
                samples[name].append(taken)
    return samples
