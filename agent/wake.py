"""What makes the loop look again: edits, machines, time. A wake carries a reason for the log and no instruction."""

from __future__ import annotations

import asyncio

QUIET = 0.01
"""Seconds without a further wake after which a burst is over: an editor's write, fsync and rename lie closer."""
LONGEST_BURST = 0.1
"""Seconds after which a burst is answered although it goes on."""


class Wake:
    """Collects reasons until somebody waits for them."""

    def __init__(self) -> None:
        self._reasons: dict[str, bool] = {}
        self._event = asyncio.Event()
        self._rested = 0.0

    def notify(self, reason: str, *, own: bool = False) -> None:
        """Say *look*. Called in the event loop. `own`: a step of ours has brought it about, and nothing follows that
        belongs to it."""
        self._reasons[reason] = own and self._reasons.get(reason, True)
        self._event.set()

    def rest(self) -> None:
        """For as long as a burst may take, answer nothing that our own steps bring about; then all of it as one."""
        self._rested = asyncio.get_running_loop().time() + LONGEST_BURST

    async def wait(self, at_most: float) -> tuple[str, ...]:
        """The reasons of one burst, each once; `timer` after `at_most` seconds without any."""
        loop = asyncio.get_running_loop()
        if not self._reasons and not await self._more(at_most):
            return ("timer",)
        while self._own and (left := self._rested - loop.time()) > 0 and await self._more(left):
            pass
        end = loop.time() + LONGEST_BURST
        while not self._own and (left := end - loop.time()) > 0:
            if not await self._more(min(QUIET, left)):
                break
        # A wake may have come with the very end of the wait; its reason is among these.
        self._event.clear()
        reasons, self._reasons = tuple(self._reasons), {}
        return reasons

    @property
    def _own(self) -> bool:
        return all(self._reasons.values())

    async def _more(self, at_most: float) -> bool:
        try:
            # Not wait_for: in Python 3.11 it can swallow a cancellation that comes with the event.
            async with asyncio.timeout(at_most):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
