"""Asks the server of a repository now and again, and at once when somebody wants it; what came of it wakes the loop.

A server that does not answer holds up nobody: it is asked in a thread of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Protocol

from agent.wake import Wake
from agent.worker import Worker, alone


class Remote(Protocol):
    """A source that has a server. Called in threads: one `fetch` at a time, `approve` also beside it."""

    @property
    def approvable(self) -> str | None:
        """The commit that is not followed until a person approves it."""

    def fetch(self) -> bool:
        """Ask the server once; whether anything is said differently since."""

    def approve(self, commit: str) -> str:
        """Follow that commit; its whole id. Raises Blocked."""


class Fetcher:
    """`interval` seconds lie between the end of one fetch and the beginning of the next."""

    def __init__(self, source: Remote, wake: Wake, interval: float) -> None:
        self._source = source
        self._wake = wake
        self._interval = interval
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._worker = Worker("fetch")

    async def run(self) -> None:
        """Ask, for ever."""
        try:
            while True:
                self._asked.clear()
                number = len(self._waiting)  # who asks from now on waits for the next answer
                if await self._worker.submit(self._source.fetch):
                    self._wake.notify("the repository says something else")
                waiting, self._waiting = self._waiting[:number], self._waiting[number:]
                for one in waiting:
                    if not one.done():
                        one.set_result(None)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._asked.wait()
        finally:
            for one in self._waiting:
                one.cancel()
            self._worker.leave()

    def soon(self) -> None:
        """Ask at once, or as soon as the server has answered what it was asked before."""
        self._asked.set()

    async def ask(self) -> None:
        """As `soon`; returns when it was asked."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self.soon()
        await answered

    def refused(self) -> str | None:
        """The commit that waits for a person's approval."""
        return self._source.approvable

    async def approve(self, commit: str) -> str:
        """Follow that commit; its whole id. Raises Blocked. It waits for no server, and is done when this returns."""
        return await alone("approve", partial(self._source.approve, commit))
