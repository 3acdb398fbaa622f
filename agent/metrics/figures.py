"""What is told of a machine's use, for people and for programs: the same figures everywhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from state.clock import stamp
from state.ids import Uid
from state.usage import Rate


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of what is told: its `key` in JSON, `title` for people, and in what it is told."""

    key: str
    title: str
    unit: str

    def of(self, rate: Rate) -> float | None:
        """Its value; None where it could not be told."""
        value: float | None = getattr(rate if hasattr(rate, self.key) else rate.sample, self.key)
        return value


FIGURES = (
    Figure("cpu", "CPU", "cores"),
    Figure("vcpu", "VCPU", "cores"),
    Figure("read_bytes", "READ", "bytes/s"),
    Figure("written_bytes", "WRITTEN", "bytes/s"),
    Figure("reads", "READS", "1/s"),
    Figure("writes", "WRITES", "1/s"),
    Figure("resident_bytes", "MEMORY", "bytes"),
    Figure("allocated_bytes", "DISK", "bytes"),
    Figure("balloon_bytes", "GIVEN", "bytes"),
    Figure("guest_total_bytes", "GUEST TOTAL", "bytes"),
    Figure("guest_available_bytes", "GUEST FREE", "bytes"),
)


def told(uid: Uid, rate: Rate) -> dict[str, Any]:
    """One moment of a machine: `at` is the end of the `seconds` that the figures are of."""
    return {
        "uid": uid,
        "at": stamp(rate.sample.at),
        "seconds": round(rate.seconds, 3),
        **{figure.key: _short(figure.of(rate)) for figure in FIGURES},
    }


def _short(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value


def written(value: float | None, unit: str) -> str:
    """A value for a glance: `12%` of a core, `1.5MiB/s`, `-` for what is not known."""
    if value is None:
        return "-"
    match unit:
        case "cores":
            return f"{100 * value:.0f}%"
        case "bytes":
            return _size(value)
        case "bytes/s":
            return f"{_size(value)}/s"
        case _:
            return f"{value:.1f}/s" if value < 10 else f"{value:.0f}/s"


def _size(value: float) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            many = value / size
            return f"{many:.1f}{unit}" if many < 10 else f"{many:.0f}{unit}"
    return f"{value:.0f}B"


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float | None], width: int) -> str:
    """The course of the values in at most `width` characters, from 0 to the highest; a blank where nothing is known.
    Where there are more values than characters, each stands for the highest of several."""
    columns = [_highest(part) for part in _parts(list(values), width)]
    top = max((one for one in columns if one is not None), default=0.0)
    return "".join(" " if one is None else _BARS[_step(one, top)] for one in columns)


def _parts(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    number = min(width, len(values))
    ends = [len(values) * n // number for n in range(number + 1)] if number else []
    return [values[begin:end] for begin, end in pairwise(ends)]


def _highest(values: Sequence[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)


def _step(value: float, top: float) -> int:
    return min(len(_BARS) - 1, int(value / top * len(_BARS))) if top > 0 else 0
