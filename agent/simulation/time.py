"""An event loop whose clock moves only when nothing is left to do, and that can be cut off as SIGKILL does it.

It refuses to wait for anything outside: a program that does has a thread, a socket or a child, and no simulation.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Killed(BaseException):
    """The process that the loop stands for was ended between two of its turns."""


class Stuck(Exception):
    """Nothing is left to do, ever: somebody waits for what will not come."""


class Clock:
    """Seconds since the simulation began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Turns(selectors.SelectSelector):
    """Where the loop comes by once a turn, with the time until its next timer."""

    def __init__(self, clock: Clock, each_turn: Callable[[], None]) -> None:
        super().__init__()
        self._clock = clock
        self._each_turn = each_turn

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._each_turn()
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("nothing is left to wait for")
        self._clock.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """One process's event loop."""

    def __init__(self, clock: Clock, each_turn: Callable[[], None]) -> None:
        """`each_turn` may raise, also Killed: what the loop was doing is then over, without another line of it."""
        self._virtual = clock
        super().__init__(_Turns(clock, each_turn))
        # What was cut off is told by nobody.
        self.set_exception_handler(_say_nothing)

    def time(self) -> float:
        return self._virtual.now


def _say_nothing(_loop: asyncio.AbstractEventLoop, _context: Mapping[str, Any]) -> None:
    """An exception that a task raises is raised where the task is awaited."""
