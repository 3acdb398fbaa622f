"""Goes round all machines at one beat: with many of them, a task and a timer for each cost more than the looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Look = Callable[[], None]
"""Looks at one machine, quickly, and raises nothing."""


class Rounds:
    """One beat for as many looks as have joined."""

    def __init__(self, beat: float) -> None:
        """`beat`: seconds from one round to the next."""
        self._beat = beat
        self._looks: dict[Look, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def joined(self, look: Look) -> Iterator[None]:
        """Look at once, and then in every round, for as long as the block lasts."""
        look()
        self._looks[look] = None
        if self._timer is None:
            self._wait()
        try:
            yield
        finally:
            del self._looks[look]
            if not self._looks and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._beat, self._go)

    def _go(self) -> None:
        self._wait()
        for look in tuple(self._looks):
            look()
