"""Bounds what strangers take of an agent by connecting to it: so many connections at once, and so long until the first
request on each has come whole. All that an agent does needs descriptors, and aiohttp bounds neither.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from aiohttp import web

MOST = 256
"""Connections at once; a page has two or three."""
FIRST_REQUEST = 10.0
"""Seconds."""


class Bounded:
    """Makes the protocol of each new connection, as `loop.create_server` asks for it."""

    def __init__(
        self, server: web.Server, most: int = MOST, first_request: float = FIRST_REQUEST
    ) -> None:
        self._server, self._most, self._first_request = server, most, first_request
        self._asked: WeakSet[asyncio.BaseTransport] = WeakSet()

    def __call__(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) >= self._most:
            return _Refused()
        made = self._server()
        asyncio.get_running_loop().call_later(self._first_request, self._look, made)
        return made

    def asked(self, request: web.BaseRequest) -> None:
        """A request has come whole."""
        if request.transport is not None:
            self._asked.add(request.transport)

    def _look(self, made: web.RequestHandler) -> None:
        transport = made.transport
        if transport is not None and transport not in self._asked:
            transport.abort()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a socket
        transport.abort()
