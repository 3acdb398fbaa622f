"""The bytes of a source, as they come: over HTTP by aiohttp, or from a file. It verifies the length alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import ImageUnavailable
from agent.guest import local
from agent.guest.local import CHUNK, SILENCE_TIMEOUT, Fingerprint

CONNECT_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Download:
    """A source that is being read. `read` answers the next bytes, CHUNK at most, and none at the end; it raises
    ImageUnavailable. `total` in bytes where that is known; `fingerprint` of a file."""

    read: Callable[[], Awaitable[bytes]]
    total: int | None
    fingerprint: Fingerprint | None = None


@asynccontextmanager
async def opened(source: str) -> AsyncIterator[Download]:
    """The source, from its first byte. Raises ImageUnavailable."""
    scheme = urlsplit(source).scheme
    if (path := local.local_path(source)) is not None:
        async with local.opened(path) as file:
            yield Download(file.read, file.size, file.fingerprint)
    elif scheme in ("http", "https"):
        async with _http(source) as download:
            yield download
    else:
        raise ImageUnavailable(f"fetching {source}: {scheme or 'no scheme'} is not known")


@asynccontextmanager
async def _http(url: str) -> AsyncIterator[Download]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT
    )
    # The bytes that the digest is of, whatever coding the server offers.
    session = aiohttp.ClientSession(
        timeout=timeout, trust_env=True, auto_decompress=False, read_bufsize=CHUNK,
        headers={"Accept-Encoding": "identity"},
    )  # fmt: skip
    async with session:
        with _told(url):
            response = await session.get(url)
        async with response:
            if response.status != 200:
                raise ImageUnavailable(
                    f"fetching {url}: the server says {response.status} {response.reason}"
                )
            total, got = response.content_length, 0

            async def read() -> bytes:
                nonlocal got
                with _told(url):
                    piece = await response.content.read(CHUNK)
                got += len(piece)
                if not piece and total is not None and got != total:
                    raise ImageUnavailable(f"fetching {url}: it ended after {got} of {total} bytes")
                return piece

            yield Download(read, total)


@contextmanager
def _told(url: str) -> Iterator[None]:
    import aiohttp

    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ImageUnavailable(f"fetching {url}: {str(error) or type(error).__name__}") from error
