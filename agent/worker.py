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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from agent.errors import RetryLater

T = TypeVar("T")
_Job = Callable[[], None]


async def alone(name: str, job: Callable[[], T]) -> T:
    """What `job` returns or raises, done in a thread of its own. Who gives up waiting leaves the job to its end."""
    worker = Worker(name)
    answer = worker.submit(job)
    worker.leave()
    return await answer


_AT_ONCE: ContextVar[bool] = ContextVar("at_once", default=False)


@contextmanager
def at_once() -> Iterator[None]:
    """Let the workers that are made in the block do each job when it is submitted, in the thread that submits it, so
    that everything comes in the same order each time."""
    before = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(before)


def _no_thread(error: RuntimeError) -> RetryLater:
    return RetryLater(
        f"the host has no thread to spare: {error}",
        hint="see to the limits of processes of this user and its control group",
    )


class Worker:
    """One thread, for one event loop, until `leave`. Its jobs are done in the order in which they came, so that nothing
    that the last one lets go of is used by another."""

    def __init__(self, name: str) -> None:
        """Raises RetryLater where there is no thread to be had."""
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._at_once = _AT_ONCE.get()
        if not self._at_once:
            try:
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError as error:
                raise _no_thread(error) from error

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

        self._put(run)
        return future

    def leave(self, last: Callable[[], object] = lambda: None) -> None:
        """End the thread when all that was submitted is done, and `last` after it. Returns at once."""

        def run() -> None:
            with suppress(OSError):
                last()

        self._put(run)
        self._put(None)

    def _put(self, job: _Job | None) -> None:
        if not self._at_once:
            self._jobs.put(job)
        elif job is not None:
            job()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _tell(self, future: asyncio.Future[Any], how: Callable[[Any], None], what: object) -> None:
        def tell() -> None:
            if not future.done():
                how(what)

        if self._at_once:
            tell()
            return
        # A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(tell)


class Ahead:
    """What workers were given and nobody has waited for yet: `most` answers, so that what comes next does not wait for
    what is being done, and does not run away from it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: deque[asyncio.Future[Any]] = deque()

    async def add(self, *answers: asyncio.Future[Any]) -> None:
        """Go on as soon as there are no more than `most`. Raises what an earlier one raises."""
        self._answers.extend(answers)
        await self._down_to(self._most)

    async def all(self) -> None:
        """Wait for every one. Raises what one of them raises."""
        await self._down_to(0)

    def leave(self) -> None:
        """Wait for none of them, whatever they come to."""
        for one in self._answers:
            if not one.cancel() and not one.cancelled():
                one.exception()
        self._answers.clear()

    async def _down_to(self, most: int) -> None:
        while len(self._answers) > most:
            await self._answers.popleft()
