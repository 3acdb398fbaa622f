"""The bytes of a source, as they come: over HTTP, or from a file. It verifies the length alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import ImageUnavailable
from agent.guest import http, local
from agent.guest.local import Fingerprint


@dataclass(frozen=True, slots=True)
class Download:
    """A source that is being read. `read` answers the next bytes, CHUNK at most, and none at the end; it raises
    ImageUnavailable. `total` in bytes where that is known; `fingerprint` of a file; `doubt` says why what has come so
    far may be something else than is meant, unless its digest is known; empty where nothing speaks against it."""

    read: Callable[[], Awaitable[bytes]]
    total: int | None
    fingerprint: Fingerprint | None = None
    doubt: Callable[[], str] = lambda: ""


@asynccontextmanager
async def opened(source: str) -> AsyncIterator[Download]:
    """The source, from its first byte. Raises ImageUnavailable."""
    scheme = urlsplit(source).scheme
    if (path := local.local_path(source)) is not None:
        async with local.opened(path) as file:
            yield Download(file.read, file.size, file.fingerprint)
    elif scheme in ("http", "https"):
        async with http.opened(source) as body:
            yield Download(body.read, body.total, doubt=lambda: body.doubt)
    else:
        raise ImageUnavailable(f"fetching {source}: {scheme or 'no scheme'} is not known")
