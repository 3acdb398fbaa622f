"""A server in the place of QEMU's monitor that says what no QEMU would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from tests.waiting import eventually

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\n'
WORDS = {
    "bytes": b"\x00\xff\xfe garbage\n" * 100,
    "half a greeting": GREETING[:40],
    "a greeting of another shape": b'{"QMP": []}\n',
    "no object": b"[1, 2, 3]\n",
    "a line without an end": b"x" * (32 << 20),
    "a deep one": b"[" * 100_000 + b"\n",
    "silence after the greeting": GREETING,
    "answers that nobody asked for": GREETING + b'{"return": {}, "id": "nobody"}\n' * 1000,
    "events without an end": GREETING
    + b'{"event": "RESET", "timestamp": {}, "data": {}}\n' * 10_000,
    "bytes that are no text": GREETING + b'{"return": {}}\n{"return": "\x96"}\n' * 9,
    "an error without words": GREETING + b'{"error": 1}\n',
}


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk, at: Path) -> AsyncIterator[None]:
    """Talk so with everybody who comes, until they are gone."""
    there: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.add(writer)
        with suppress(OSError):
            await talk(reader, writer)
        writer.close()
        there.discard(writer)

    server = await asyncio.start_unix_server(serve, at)
    try:
        yield
    finally:
        server.close()
        await eventually(lambda: not there, "everybody is gone")


def saying(words: bytes, at: Path) -> AbstractAsyncContextManager[None]:
    """Say it to everybody who comes, and then nothing, and read whatever is said."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await writer.drain()
        while await reader.read(1 << 16):
            pass

    return talking(talk, at)


def dripping(at: Path) -> AbstractAsyncContextManager[None]:
    """Say a byte now and then, for ever."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    return talking(talk, at)
