"""Fetches that are under way, each once however many wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from state.observed import BaseImage, HowFar

Progress = Callable[[HowFar], None]
"""Told now and then how far a fetch is."""
Fetch = Callable[[Progress], Coroutine[Any, Any, BaseImage]]


class Flights:
    """The fetches of one event loop, by what they bring."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def join(self, key: str, fetch: Fetch, progress: Progress) -> BaseImage:
        """What the fetch that is under way for `key` brings, or else `fetch`. Raises what that raises."""
        flight = self._flights.get(key)
        if flight is None or flight.over:
            flight = self._flights[key] = _Flight(fetch)
        try:
            return await flight.join(progress)
        finally:
            if flight.over and self._flights.get(key) is flight:
                del self._flights[key]


class _Flight:
    """One fetch, which belongs to all who wait for it together: whichever leaves, it goes on for the others, and it
    ends with the last."""

    def __init__(self, fetch: Fetch) -> None:
        self._listeners: list[Progress] = []
        self._said: HowFar | None = None
        self._task = asyncio.ensure_future(fetch(self._tell))

    @property
    def over(self) -> bool:
        """Whether nothing comes of it for whoever joins now."""
        return self._task.done() or not self._listeners

    async def join(self, progress: Progress) -> BaseImage:
        self._listeners.append(progress)
        if self._said is not None:
            progress(self._said)
        try:
            await asyncio.wait([self._task])
            return self._task.result()
        finally:
            self._listeners.remove(progress)
            if not self._listeners:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self, how_far: HowFar) -> None:
        self._said = how_far
        for progress in self._listeners:
            progress(how_far)
