"""Contenders of one figure take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass

Contender = Callable[[], float]
"""Does it once and says what it took, in the figure's unit."""


@dataclass(frozen=True)
class Figure:
    """The samples of each contender, the floor's first; `limit` is what the last may take, in the unit."""

    name: str
    unit: str
    samples: dict[str, list[float]]
    limit: float
    rule: str

    @property
    def met(self) -> bool:
        """Whether the last contender's median is within the limit."""
        return statistics.median(list(self.samples.values())[-1]) <= self.limit

    def rows(self) -> list[str]:
        """A line for each contender: median, minimum, maximum and the ratio to the floor."""
        floor = statistics.median(next(iter(self.samples.values())))
        lines = [f"{self.name} ({self.unit}): {self.rule}: {'met' if self.met else 'MISSED'}"]
        for who, taken in self.samples.items():
            middle = statistics.median(taken)
            lines.append(
                f"  {who:<28} median {middle:9.1f}  min {min(taken):9.1f}  max {max(taken):9.1f}"
                f"  ratio {middle / floor if floor else 0:6.2f}  n {len(taken)}"
            )
        return lines


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
