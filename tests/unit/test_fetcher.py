"""Asking a server again and again: when, and what becomes of those who wait for its answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from agent.fetcher import Fetcher
from agent.wake import Wake
from agent.worker import at_once
from tests import virtual
from tests.waiting import eventually


class Server:
    """Answers once it is let, each time anew."""

    approvable = None

    def __init__(self) -> None:
        self.asked = 0
        self._let = threading.Semaphore(0)

    def fetch(self) -> bool:
        self.asked += 1
        self._let.acquire()
        return False

    def approve(self, commit: str) -> str:
        return commit

    def answer(self) -> None:
        self._let.release()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.answer()


@pytest.mark.parametrize("while_it", ["is asked for somebody else", "is asked for them"])
async def test_who_waits_for_an_answer_while_the_agent_leaves_waits_no_longer(
    server: Server, while_it: str
) -> None:
    """Sabotage: let them wait. What somebody asked of the agent then never ends."""
    fetcher = Fetcher(server, Wake(), 3600.0)
    fetching = asyncio.ensure_future(fetcher.run())
    await eventually(lambda: server.asked == 1, "it is asked")
    waiting = asyncio.ensure_future(fetcher.ask())
    await asyncio.sleep(0)
    if while_it == "is asked for them":
        server.answer()
        await eventually(lambda: server.asked == 2, "it is asked again")
    fetching.cancel()
    await asyncio.wait((fetching,))
    await eventually(waiting.cancelled, "it is over")


async def test_who_asks_while_a_server_is_asked_waits_for_the_next_answer(server: Server) -> None:
    """Sabotage: take an answer for one to what was asked after it."""
    fetcher = Fetcher(server, Wake(), 3600.0)
    fetching = asyncio.ensure_future(fetcher.run())
    await eventually(lambda: server.asked == 1, "it is asked")
    waiting, tired = (asyncio.ensure_future(fetcher.ask()) for _ in range(2))
    await asyncio.sleep(0)
    server.answer()
    await eventually(lambda: server.asked == 2, "it is asked again, and not in an hour")
    assert not waiting.done()
    tired.cancel()
    server.answer()
    await eventually(waiting.done, "it is answered")
    assert not fetching.done(), "one who has gone is no reason to end"
    fetching.cancel()
    await asyncio.wait((fetching,))


class Heard:
    """Answers at once, and knows when it was asked."""

    approvable = None

    def __init__(self) -> None:
        self.asked: list[float] = []

    def fetch(self) -> bool:
        self.asked.append(asyncio.get_running_loop().time())
        return len(self.asked) == 3

    def approve(self, commit: str) -> str:
        return commit


def test_a_server_is_asked_once_for_each_wish_and_then_after_the_interval() -> None:
    """Sabotage: remember the wish. The server is then asked without a pause."""
    server = Heard()

    async def for_a_while() -> tuple[str, ...]:
        wake = Wake()
        fetcher = Fetcher(server, wake, 100.0)
        fetching = asyncio.ensure_future(fetcher.run())
        for _ in range(2):
            await asyncio.sleep(5.0)
            fetcher.soon()
        await asyncio.sleep(250.0)
        fetching.cancel()
        await asyncio.wait((fetching,))
        return await wake.wait(1.0)

    with at_once():
        assert virtual.run(for_a_while()) == ("the repository says something else",)
    assert server.asked == [0.0, 5.0, 10.0, 110.0, 210.0]
