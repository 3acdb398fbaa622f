"""Ends this very process, as SIGKILL does, when it comes to a given line; or notes the lines that it comes to."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = (f"{ROOT}/agent/", f"{ROOT}/state/")

Line = tuple[str, int]
"""A file, and a line in it."""


def die_at(line: Line) -> None:
    """From now on."""

    def reached(found: Line) -> None:
        if found == line:
            os.kill(os.getpid(), signal.SIGKILL)

    _trace(reached)


def note(into: list[Line]) -> None:
    """From now on, each line once, in the order in which they are first reached."""
    seen: set[Line] = set()

    def reached(found: Line) -> None:
        if found not in seen:
            seen.add(found)
            into.append(found)

    _trace(reached)


def _trace(reached: Callable[[Line], None]) -> None:
    def lines(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            reached((frame.f_code.co_filename, frame.f_lineno))
        return lines

    def calls(frame: FrameType, _event: str, _argument: Any) -> Any:
        return lines if frame.f_code.co_filename.startswith(OURS) else None

    threading.settrace(calls)
    sys.settrace(calls)
