"""What file sources look like just now: asked in threads, waited for briefly, as it was before where none answers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial

from agent.guest.local import Fingerprint, fingerprint
from agent.worker import Worker

PATIENCE = 1.0
"""Seconds from the asking on for which the answer of a file system is waited for."""


class Fingerprints:
    """The fingerprints of files, for one event loop."""

    def __init__(self) -> None:
        self._known: dict[str, Fingerprint | None] = {}
        self._asked: dict[str, tuple[float, asyncio.Future[Fingerprint | None]]] = {}

    async def of(self, paths: Collection[str]) -> Mapping[str, Fingerprint | None]:
        """What each of the files looks like. One that does not answer within PATIENCE is as it was before, and is not
        asked again until it has. None: it is not there, or it has never answered."""
        loop = asyncio.get_running_loop()
        for path in paths:
            if path not in self._asked:
                worker = Worker("stat of an image")
                answer = worker.submit(partial(fingerprint, path))
                worker.leave()
                answer.add_done_callback(partial(self._answered, path))
                self._asked[path] = (loop.time(), answer)
        if paths:
            # At least one turn of the loop for an answer that is there, but no second wait for one that is overdue.
            await asyncio.sleep(0)
            asked = [self._asked[path] for path in paths if path in self._asked]
            since = loop.time() - PATIENCE
            if due := {answer: begun for begun, answer in asked if begun > since}:
                await asyncio.wait(due, timeout=max(due.values()) - since)
        return {path: self._known.get(path) for path in paths}

    def _answered(self, path: str, answer: asyncio.Future[Fingerprint | None]) -> None:
        self._known[path] = answer.result()
        del self._asked[path]
