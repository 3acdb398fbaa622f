"""The bytes of a URL as they come, by aiohttp. A connection that is cut is taken up again where it ended.

That is only done where the server proves that what follows belongs to what has come (RFC 9110, section 13.1.5): by a
strong entity tag, or by a date of modification that is old enough to tell. Else the fetch begins anew, in its time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from agent.errors import ImageUnavailable
from agent.guest.local import CHUNK, SILENCE_TIMEOUT

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT = 15.0
CUTS = 5
"""How often in a row a connection may be cut without a byte having come, before the server is given up."""
PAUSE = 0.5
"""Seconds from the first cut to the next try; each further one in a row waits twice as long."""
_OLD_ENOUGH = timedelta(seconds=60)
_PASSING = frozenset({429, 500, 502, 503, 504})
"""Answers of a server that may say something else in a moment."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Body]:
    """What the URL leads to, redirects followed. Raises ImageUnavailable."""
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
        body = Body(url, session)
        try:
            await body.open()
            yield body
        finally:
            body.leave()


class Body:
    """Bytes that are being read. `total` of them, where the server says so. Those that had come and were not read yet
    when a connection was cut, CHUNK or two of them, are asked for again."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._response: aiohttp.ClientResponse | None = None
        self._proof: str | None = None
        self._got = 0
        self._cuts = 0
        self.total: int | None = None

    async def open(self) -> None:
        """Before anything else. Raises ImageUnavailable."""
        answer = await self._ask({})
        if isinstance(answer, str):
            raise self._unavailable(answer)
        self._response, self.total = answer, answer.content_length
        if answer.status != 200:
            raise self._unavailable(_says(answer))
        self._proof = proof_of(answer.headers)

    def leave(self) -> None:
        """Read no more of it."""
        if self._response is not None:
            self._response.close()
            self._response = None

    async def read(self) -> bytes:
        """The next bytes, CHUNK at most; none at the end. Raises ImageUnavailable."""
        while True:
            piece = await self._next()
            if isinstance(piece, bytes):
                self._got += len(piece)
                self._cuts = 0
                return piece
            await self._go_on(piece)

    async def _next(self) -> bytes | str:
        """What comes next, or in words why nothing does."""
        import aiohttp

        if self._response is None:
            return "the connection was cut"
        try:
            piece = await self._response.content.read(CHUNK)
        except (aiohttp.ClientError, TimeoutError) as error:
            return b"" if self._got == self.total else str(error) or type(error).__name__
        if piece or self.total in (None, self._got):
            return piece
        return f"it ended after {self._got} of {self.total} bytes"

    async def _go_on(self, why: str) -> None:
        """Have the rest come, or say why it cannot. Raises ImageUnavailable."""
        self.leave()
        self._cuts += 1
        if self._proof is None or self._cuts > CUTS:
            raise self._unavailable(why)
        await asyncio.sleep(PAUSE * 2 ** (self._cuts - 1))
        answer = await self._ask({"Range": f"bytes={self._got}-", "If-Range": self._proof})
        if isinstance(answer, str):
            return
        self._response = answer
        if answer.status in _PASSING:
            self.leave()
        elif answer.status == 200:
            raise self._unavailable(
                f"{why}, and its server has something else there now, or begins anew"
            )
        elif answer.status != 206:
            raise self._unavailable(f"{why}, and of the rest {_says(answer)}")
        elif not self._is_the_rest(answer.headers.get("Content-Range", "")):
            raise self._unavailable(f"{why}, and what its server goes on with is not the rest")

    def _is_the_rest(self, said: str) -> bool:
        """Whether a Content-Range begins where the bytes ended, in as many as there were to be."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said)
        if found is None or int(found[1]) != self._got:
            return False
        return found[3] == "*" or self.total is None or int(found[3]) == self.total

    async def _ask(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse | str:
        """The answer, or in words why there is none."""
        import aiohttp

        try:
            return await self._session.get(self._url, headers=headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__

    def _unavailable(self, why: str) -> ImageUnavailable:
        return ImageUnavailable(f"fetching {self._url}: {why}")


def proof_of(headers: Mapping[str, str]) -> str | None:
    """What a server is to compare before it sends the rest of a body; None where nothing proves enough. A date counts
    where the body was not changed within a minute of being sent: RFC 9110, section 8.8.2.2."""
    tag = headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e\x80-\xff]*"', tag):
        return tag
    changed, sent = headers.get("Last-Modified"), headers.get("Date")
    try:
        if changed and sent:
            age = parsedate_to_datetime(sent) - parsedate_to_datetime(changed)
            return changed if age >= _OLD_ENOUGH else None
    except (ValueError, TypeError):
        return None
    return None


def _says(answer: aiohttp.ClientResponse) -> str:
    return f"the server says {answer.status} {answer.reason}"
