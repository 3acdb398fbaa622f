"""Asks the server of a repository now and again, and at once when somebody wants it; what came of it wakes the loop.

A server that does not answer holds up nobody: it is asked in a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from agent.wake import Wake
from agent.worker import Worker


class Fetcher:
    """`fetch` asks the server once and tells whether anything is said differently since; `interval` seconds lie between
    the end of one and the beginning of the next."""

    def __init__(self, fetch: Callable[[], bool], wake: Wake, interval: float) -> None:
        self._fetch = fetch
        self._wake = wake
        self._interval = interval
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self) -> None:
        """Ask, for ever."""
        worker = Worker("fetch")
        try:
            while True:
                self._asked.clear()
                waiting, self._waiting = self._waiting, []
                if await worker.submit(self._fetch):
                    self._wake.notify("the repository was asked")
                for one in waiting:
                    if not one.done():
                        one.set_result(None)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._asked.wait()
        finally:
            for one in self._waiting:
                one.cancel()
            worker.leave()

    async def now(self) -> None:
        """Ask at once, or as soon as the server has answered what it was asked before; returns when it was asked."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self._asked.set()
        await answered
