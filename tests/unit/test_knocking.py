"""Who is there behind a forwarded port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent.errors import NotReady
from agent.guest.knocking import banner, knocks
from state.ids import Name
from tests.waiting import eventually

WEB = Name("web")


class Door:
    """Takes every connection, as user-mode networking does; answers from the `opens`-th on with `says`."""

    def __init__(self, opens: int, says: bytes) -> None:
        self._opens, self._says = opens, says
        self.knocks = 0
        self.held: set[asyncio.StreamWriter] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks += 1
        self.held.add(writer)
        if self.knocks >= self._opens:
            writer.write(self._says)
        with suppress(OSError):
            await reader.read()
        self.held.discard(writer)
        writer.close()


@asynccontextmanager
async def opened(door: Door) -> AsyncIterator[int]:
    server = await asyncio.start_server(door.answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await eventually(lambda: not door.held, "everybody has left")


async def test_a_later_knock_is_answered_though_the_first_is_not() -> None:
    """Sabotage: wait for the answer to one knock."""
    door = Door(3, b"SSH-2.0-guest\r\n")
    async with opened(door) as port, asyncio.timeout(20):
        await knocks(WEB, port, 30.0)
    assert door.knocks == 3


async def test_where_nobody_answers_that_is_told() -> None:
    async with opened(Door(1000, b"")) as port:
        with pytest.raises(NotReady, match=f"knocking at web on port {port}: no answer"):
            await knocks(WEB, port, 0.1)
        with pytest.raises(NotReady, match="no answer"):
            await banner(WEB, port, 0.1)


async def test_another_service_is_no_guest() -> None:
    async with opened(Door(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        with pytest.raises(NotReady, match="nobody speaks SSH there yet"):
            await banner(WEB, port, 10.0)
        with pytest.raises(NotReady):
            await knocks(WEB, port, 0.1)
