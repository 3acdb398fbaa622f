"""Asks the source for what is wanted, in a thread of its own: one that does not answer holds up passes and no more."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from agent.pulse import Pulse
from agent.worker import Worker
from state.desired import Desired
from state.ids import Digest


class Source(Protocol):
    """Where documents come from."""

    def attachment(self, path: str, digest: Digest) -> bytes:
        """The bytes of a file that a document names, as they were when it was read. Raises HoldfastError when they are
        no longer so. Called in a thread."""

    def load(self, now: float) -> Desired:
        """Read everything; `now` is Unix time. Never raises for what is in the documents. Called in a thread of its
        own, one call at a time."""


class Reading:
    """The one reader of a source: its first question begins the thread, `leave` ends it."""

    def __init__(self, source: Source, pulse: Pulse) -> None:
        self._source, self._pulse = source, pulse
        self._worker: Worker | None = None
        self._loading: asyncio.Future[Desired] | None = None

    async def load(self, wall: float) -> Desired | None:
        """What is wanted now, in Unix time; None where it was given up before the source has answered."""
        self._worker = self._worker or Worker("reader of the source")
        self._loading = self._worker.submit(partial(self._source.load, wall))
        try:
            await self._pulse.until(self._loading)
            return self._loading.result()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None

    def give_up(self) -> None:
        """Do not wait for the answer of just now, if there is one to come."""
        if self._loading is not None:
            self._loading.cancel()

    def leave(self) -> None:
        """End the thread when it is done with what it was asked."""
        if self._worker is not None:
            self._worker.leave()
