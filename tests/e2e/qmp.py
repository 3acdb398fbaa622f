"""A second client for the tests: it speaks to the metrics monitor, so that the agent's own is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient


class Client:
    """A connection to a monitor."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def ask(self, command: str, **arguments: object) -> Any:
        async with asyncio.timeout(10):
            return await self._client.execute(command, arguments)

    async def say(self, line: str) -> str:
        """A command of the human monitor, and its answer."""
        return str(await self.ask("human-monitor-command", **{"command-line": line}))


@asynccontextmanager
async def connected(socket: Path) -> AsyncIterator[Client]:
    """A client for as long as the block lasts."""
    client = QMPClient()
    async with asyncio.timeout(10):
        await client.connect(str(socket))
    try:
        yield Client(client)
    finally:
        await asyncio.wait((asyncio.ensure_future(_gone(client)),))


async def _gone(client: QMPClient) -> None:
    try:
        await client.disconnect()
    except (EOFError, OSError):
        return
