"""A web server that a test holds back: it sends half of its content, and the rest when it is let."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Server:
    """`content` is what it sends; `asked` counts who asked, `left` who went away before the second half."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.says = "200 OK"
        self.length: int | None = None
        self.go_on = asyncio.Event()
        self.asked = 0
        self.left = 0
        self.url = ""


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._request = b""
        self._waiting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        if not self._request.endswith(b"\r\n\r\n"):
            return
        server, content = self._server, self._server.content
        server.asked += 1
        length = len(content) if server.length is None else server.length
        head = f"HTTP/1.1 {server.says}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + content[: len(content) // 2])
        self._waiting = asyncio.ensure_future(self._rest())

    async def _rest(self) -> None:
        await self._server.go_on.wait()
        self._transport.write(self._server.content[len(self._server.content) // 2 :])
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._server.left += 1
            self._waiting.cancel()


@asynccontextmanager
async def serving(content: bytes) -> AsyncIterator[Server]:
    """A server on this host while the block lasts."""
    server = Server(content)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0)
    async with listener:
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/image.raw"
        yield server
