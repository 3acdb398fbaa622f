"""That nothing an agent is told is lost, at whatever moment of its start it is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from agent.cli.leaving import Leaving

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The event loop's own handlers go with the loop; these are the ones from before it."""
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


def tell(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
async def test_what_is_being_done_is_broken_off_and_cleans_up(number: signal.Signals) -> None:
    began, cleaned = asyncio.Event(), []

    async def for_ever() -> str:
        try:
            began.set()
            tell(number)
            await asyncio.Event().wait()
        finally:
            cleaned.append("up")
        return "done"

    assert await Leaving().unless_told(for_ever()) is None
    assert (began.is_set(), cleaned) == (True, ["up"])


@pytest.mark.parametrize("turns", range(5))
async def test_a_signal_that_comes_as_the_first_thing_ends_reaches_the_next(turns: int) -> None:
    """The loop reads what it was told one turn after it came, and acts on it one turn later: here it comes so many
    turns before the end of what is done."""

    async def quickly() -> str:
        tell()
        for _ in range(turns):
            await asyncio.sleep(0)
        return "done"

    leaving, told = Leaving(), asyncio.Event()
    result = await leaving.unless_told(quickly())
    leaving.answer(told.set)
    if result is not None:
        assert result == "done"
        async with asyncio.timeout(60):
            await told.wait()
    assert told.is_set(), "what breaks it off is told to what comes after, too"


async def test_each_telling_counts_those_too_that_came_before_there_was_an_answer() -> None:
    leaving, first = Leaving(), asyncio.Event()
    leaving.answer(first.set)
    tell()
    async with asyncio.timeout(60):
        await first.wait()
    told: list[int] = []
    second = asyncio.Event()

    def stop() -> None:
        told.append(1)
        if len(told) > 1:
            second.set()

    leaving.answer(stop)
    assert told == [1]
    tell(signal.SIGINT)
    async with asyncio.timeout(60):
        await second.wait()
    assert told == [1, 1]
