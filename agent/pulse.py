"""The loop's own sign of life, given wherever it waits and nowhere else: a loop that hangs gives none.

No task of its own does this: one would go on while the loop does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from agent.notify import Manager
from agent.wake import Wake


class Pulse:
    """Waits for the loop, and tells the manager meanwhile that it lives."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        # Half of the time that is given, as sd_watchdog_enabled(3) recommends.
        self._every = None if manager.every is None else manager.every / 2

    def ready(self) -> None:
        """The loop begins."""
        self._manager.ready()

    def leaving(self) -> None:
        """The loop has ended; what is under way is finished."""
        self._manager.leaving()

    async def wait(self, wake: Wake, at_most: float) -> tuple[str, ...]:
        """As `Wake.wait`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + at_most
        while True:
            self._manager.alive()
            left = max(0.0, end - loop.time())
            if self._every is None or left <= self._every:
                return await wake.wait(left)
            if (reasons := await wake.wait(self._every)) != ("timer",):
                return reasons

    async def until(self, done: Awaitable[Any]) -> None:
        """Wait until it is done, however long that takes; what it comes to is for the caller to see. It is not
        cancelled with the caller."""
        waiting = asyncio.ensure_future(done)
        while not waiting.done():
            self._manager.alive()
            await asyncio.wait((waiting,), timeout=self._every)
