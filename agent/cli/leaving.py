"""Hears the signals that ask an agent to leave, from the first moment of its event loop to the last."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

SPARE = signal.SIGUSR1
"""Asks an agent to leave, and to let its VMs be, whatever becomes of them with it otherwise."""

T = TypeVar("T")


class Leaving:
    """Counts what it is told, so that nothing that comes while one answer takes the place of another is lost: a handler
    that is exchanged may already stand in the loop's queue."""

    def __init__(self) -> None:
        """Listens to SIGTERM, SIGINT and SPARE, in the running event loop and for as long as that lasts."""
        self._told = 0
        self.sparing = False
        self._answer: Callable[[], object] = lambda: None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)
        loop.add_signal_handler(SPARE, self._tell_sparing)

    async def unless_told(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None where the agent was told to leave, after it was broken off and has cleaned up."""
        task = asyncio.ensure_future(doing)
        self.answer(task.cancel)
        await asyncio.wait((task,))
        return None if self._told else task.result()

    def answer(self, leave: Callable[[], object]) -> None:
        """What is done from now on, each time that it is told; at once for what it was told before."""
        self._answer = leave
        for _ in range(self._told):
            leave()

    def _tell_sparing(self) -> None:
        self.sparing = True
        self._tell()

    def _tell(self) -> None:
        self._told += 1
        self._answer()
