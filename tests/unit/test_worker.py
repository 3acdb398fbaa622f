"""Threads of their own: one thing after the other, and the last thing last, also when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from agent.worker import Ahead, Worker
from tests.waiting import eventually


async def test_jobs_are_done_in_their_order_and_answer() -> None:
    worker, done = Worker("test"), list[int]()

    def job(number: int) -> int:
        done.append(number)
        return number

    asked = [worker.submit(partial(job, number)) for number in range(50)]
    assert await asyncio.gather(*asked) == list(range(50))
    assert done == list(range(50))
    worker.leave()


async def test_what_a_job_raises_reaches_who_asked_and_the_next_goes_on() -> None:
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        await worker.submit(lambda: 1 / 0)
    assert await worker.submit(lambda: 1) == 1
    worker.leave()


async def test_the_last_job_waits_for_one_that_nobody_waits_for() -> None:
    """Sabotage: let a cancelled caller close what its job still uses."""
    worker, gate, done = Worker("test"), threading.Event(), list[str]()

    def slow() -> None:
        gate.wait()
        done.append("slow")

    async def ask() -> None:
        await worker.submit(slow)

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask())
        await asyncio.sleep(0)
        asking.cancel()
    worker.leave(lambda: done.append("last"))
    assert done == []
    gate.set()
    await eventually(lambda: done == ["slow", "last"], "the last job was the last")


async def test_a_thread_ends_when_it_is_left() -> None:
    worker = Worker("a thread of its own")
    worker.leave()
    await eventually(
        lambda: all(one.name != "a thread of its own" for one in threading.enumerate()), "it ended"
    )


async def test_threads_do_not_hold_up_a_process() -> None:
    worker = Worker("a daemon")
    assert [one.daemon for one in threading.enumerate() if one.name == "a daemon"] == [True]
    worker.leave()


async def test_what_is_given_does_not_run_away_from_what_is_done() -> None:
    """Sabotage: wait for nothing. All of a download is then in memory."""
    worker, gate, ahead, given = Worker("test"), threading.Event(), Ahead(3), list[int]()

    async def give() -> None:
        for number in range(10):
            given.append(number)
            await ahead.add(worker.submit(gate.wait))

    async with asyncio.TaskGroup() as group:
        giving = group.create_task(give())
        await eventually(lambda: len(given) == 4, "so many are under way")
        assert not giving.done()
        gate.set()
    await ahead.all()
    assert given == list(range(10))
    worker.leave()


async def test_what_went_wrong_ahead_is_raised_once_and_the_rest_is_left() -> None:
    worker, ahead = Worker("test"), Ahead(1)
    with pytest.raises(ZeroDivisionError):
        await ahead.add(*(worker.submit(lambda: 1 / 0) for _ in range(5)))
    ahead.leave()
    await ahead.all()
    worker.leave()
