"""A thread that does one thing after the other for the event loop, and that nothing waits for when it is stuck.

A file system that does not answer stops whatever asks it, for as long as it likes. So sources and images are looked at
from threads of their own: these take no place in asyncio's pool, where the rest of the agent would queue behind them,
and as daemons they do not hold up a process that leaves. (A thread that waits for a dead NFS or FUSE server can be
killed with its process, since Linux 2.6.25.)
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_Job = Callable[[], None]


async def alone(name: str, job: Callable[[], T]) -> T:
    """What `job` returns or raises, done in a thread of its own. Who gives up waiting leaves the job to its end."""
    worker = Worker(name)
    answer = worker.submit(job)
    worker.leave()
    return await answer


class Worker:
    """One thread, for one event loop, until `leave`. Its jobs are done in the order in which they came, so that nothing
    that the last one lets go of is used by another."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have `job` done; the future holds what it returns or raises. Cancelling that does not stop the job."""
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is the asker's
                self._tell(future, future.set_exception, error)
            else:
                self._tell(future, future.set_result, result)

        self._jobs.put(run)
        return future

    def leave(self, last: Callable[[], object] = lambda: None) -> None:
        """End the thread when all that was submitted is done, and `last` after it. Returns at once."""

        def run() -> None:
            with suppress(OSError):
                last()

        self._jobs.put(run)
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _tell(self, future: asyncio.Future[Any], how: Callable[[Any], None], what: object) -> None:
        def tell() -> None:
            if not future.done():
                how(what)

        # A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(tell)
