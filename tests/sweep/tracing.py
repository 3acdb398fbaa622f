"""Ends this very process, as SIGKILL does, when it comes to a given line; or notes the lines that it comes to."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = (f"{ROOT}/agent/", f"{ROOT}/state/")

Line = tuple[str, int]
"""A file, and a line in it."""


def die_at(line: Line) -> None:
    """From now on."""
    file, number = line
    has_it = cache(lambda code: any(number == at for _, _, at in code.co_lines()))

    def lines(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and frame.f_lineno == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return lines

    def calls(frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        return lines if code.co_filename == file and has_it(code) else None

    _trace(calls)


def note(into: list[Line]) -> None:
    """From now on, each line once, in the order in which they are first reached."""
    seen: set[Line] = set()

    def lines(frame: FrameType, event: str, _argument: Any) -> Any:
        found = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and found not in seen:
            seen.add(found)
            into.append(found)
        return lines

    def calls(frame: FrameType, _event: str, _argument: Any) -> Any:
        return lines if frame.f_code.co_filename.startswith(OURS) else None

    _trace(calls)


def _trace(calls: Callable[[FrameType, str, Any], Any]) -> None:
    threading.settrace(calls)
    sys.settrace(calls)
