"""Sizes and times as people write them (`512MiB`, `90s`), as numbers inside: bytes and seconds."""

from __future__ import annotations

import re

from state.spec.words import quoted

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_PATTERN = r"^[0-9]{1,9}(KiB|MiB|GiB|TiB)$"
TIME_PATTERN = r"^[0-9]{1,9}(ms|s|m|h|d)$"


def parse_size(value: object) -> int:
    """Bytes of `512MiB`. Raises ValueError, with what to write instead, for anything else."""
    if isinstance(value, str) and re.fullmatch(SIZE_PATTERN, value):
        return int(value[:-3]) * _SIZES[value[-3:]]
    raise ValueError(
        f"{quoted(value)} is no size (write a whole number and KiB, MiB, GiB or TiB, like 512MiB)"
    )


def parse_duration(value: object) -> float:
    """Seconds of `90s`. Raises ValueError, with what to write instead, for anything else."""
    if isinstance(value, str) and (found := re.fullmatch(TIME_PATTERN, value)):
        unit = found.group(1)
        return int(value[: -len(unit)]) * _TIMES[unit]
    raise ValueError(
        f"{quoted(value)} is no time (write a whole number and ms, s, m, h or d, like 90s)"
    )


def format_size(size: int) -> str:
    """The shortest exact spelling: 536870912 -> `512MiB`; what is no whole KiB stays in bytes (`1000B`)."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def format_duration(seconds: float) -> str:
    """The shortest exact spelling: 120.0 -> `2m`, 0.0 -> `0s`."""
    milliseconds = round(seconds * 1000)
    for unit, scale in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % scale == 0 and (milliseconds or unit == "s"):
            return f"{milliseconds // scale}{unit}"
    return f"{milliseconds}ms"
