"""The bytes of a source, as they come: over HTTP by aiohttp, or from a file. It verifies nothing."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

from agent.errors import ImageUnavailable

CHUNK = 1 << 20
CONNECT_TIMEOUT = 15.0
SILENCE_TIMEOUT = 60.0
"""Seconds without a byte after which a server is given up."""


async def chunks(source: str) -> AsyncIterator[tuple[bytes, int | None]]:
    """Pieces of at most CHUNK bytes, each with the total length where that is known. Raises ImageUnavailable."""
    parts = urlsplit(source)
    match parts.scheme:
        case "http" | "https":
            async for piece in _http(source):
                yield piece
        case "file":
            async for piece in _file(unquote(parts.path)):
                yield piece
        case _:
            raise ImageUnavailable(f"fetching {source}: {parts.scheme or 'no scheme'} is not known")


def local_path(source: str) -> str | None:
    """The path of a `file://` source, None for any other."""
    parts = urlsplit(source)
    return unquote(parts.path) if parts.scheme == "file" else None


async def _file(path: str) -> AsyncIterator[tuple[bytes, int | None]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageUnavailable(f"reading the image {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ImageUnavailable(f"reading the image {path}: it is no regular file")
        while piece := await asyncio.to_thread(file.read, CHUNK):
            yield piece, found.st_size


async def _http(url: str) -> AsyncIterator[tuple[bytes, int | None]]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
    )
    got = 0
    try:
        # The bytes that the digest is of, whatever coding the server offers.
        async with (
            aiohttp.ClientSession(
                timeout=timeout, trust_env=True, auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            ) as session,
            session.get(url) as response,
        ):  # fmt: skip
            if response.status != 200:
                raise ImageUnavailable(
                    f"fetching {url}: the server says {response.status} {response.reason}"
                )
            async for piece in response.content.iter_chunked(CHUNK):
                got += len(piece)
                yield piece, response.content_length
            if response.content_length is not None and got != response.content_length:
                raise ImageUnavailable(
                    f"fetching {url}: it ended after {got} of {response.content_length} bytes"
                )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ImageUnavailable(f"fetching {url}: {str(error) or type(error).__name__}") from error
