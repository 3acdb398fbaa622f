"""Connections that are only held cost the port that they are held on, and nothing else of the agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from agent.web.bounds import Bounded

HALF = b"GET / HTTP/1.1\r\nHost: here\r\nX: "
LATE = 30.0


@asynccontextmanager
async def serving(most: int, first_request: float) -> AsyncIterator[int]:
    """The port of a server with these bounds, which answers `here`."""

    @web.middleware
    async def answered(request: web.Request, handler: Any) -> web.StreamResponse:
        bounded.asked(request)
        return web.Response(text="here")

    runner = web.AppRunner(web.Application(middlewares=[answered]), access_log=None)
    await runner.setup()
    assert runner.server is not None
    bounded = Bounded(runner.server, most, first_request)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with await asyncio.get_running_loop().create_server(bounded, sock=listener):
            yield listener.getsockname()[1]
    await runner.cleanup()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection is ended, in whatever way."""
    async with asyncio.timeout(LATE):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_of_too_many_connections_the_last_is_closed_and_the_first_are_answered() -> None:
    """Sabotage: take every connection. A few thousand then leave the agent no file to open."""
    async with serving(2, LATE) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(HALF)
            await writer.drain()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await end_of(reader) == b""
        writer.close()
        for reader, writer in held:
            writer.write(b"x\r\nConnection: close\r\n\r\n")
            assert (await end_of(reader)).endswith(b"here")
            writer.close()


async def test_who_never_asks_is_let_go_and_who_has_asked_is_not() -> None:
    """Sabotage: wait for the rest of a request for ever."""
    async with serving(3, 0.3) as port:
        asks, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HALF + b"x\r\n\r\n")
        assert (await asks.readuntil(b"here")).startswith(b"HTTP/1.1 200")
        for sent in (HALF, b""):
            reader, half = await asyncio.open_connection("127.0.0.1", port)
            half.write(sent)
            assert await end_of(reader) == b""
            half.close()
        writer.write(HALF + b"x\r\nConnection: close\r\n\r\n")
        assert (await end_of(asks)).endswith(b"here")
        writer.close()
