"""The bytes of a URL as they come, by aiohttp. A connection that is cut is taken up again where it ended.

That is only done where the server proves that what follows belongs to what has come (RFC 9110, section 13.1.5): by a
strong entity tag, or by a date of modification that is old enough to tell. Else the fetch begins anew, in its time.
It refuses to send a password to anybody but a proxy, and to tell where a redirect led: such addresses may be signed.
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
from state.spec.words import excerpt

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT = 15.0
ANSWER_TIMEOUT = 120.0
"""Seconds until an answer has begun, all redirects before it included."""
LEAST = 64 << 10
"""Bytes that a server sends within SILENCE_TIMEOUT, at least: one that sends fewer is left, as if it had cut."""
CUTS = 5
"""How often in a row a connection may be cut without LEAST bytes having come, before the server is given up."""
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
        headers={"Accept-Encoding": "identity"}, middlewares=[_without_password],
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
    when a connection was cut, CHUNK or two of them, are asked for again. `doubt`: why these may be other bytes
    than are meant, unless it is known what they are to be; empty where nothing speaks against them."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._response: aiohttp.ClientResponse | None = None
        self._proof: str | None = None
        self._got = 0
        self._cuts = 0
        self._cut_at = 0
        self._waited, self._came = 0.0, 0
        """Seconds for which bytes were waited for, and how many came, since that was last judged."""
        self.total: int | None = None
        self.doubt = ""

    async def open(self) -> None:
        """Before anything else. Raises ImageUnavailable."""
        answer = await self._ask({})
        if isinstance(answer, str):
            raise self._unavailable(answer)
        self._response, self.total = answer, answer.content_length
        if answer.status != 200:
            raise self._unavailable(_says(answer))
        self._proof = proof_of(answer.headers)
        self.doubt = self._doubt(answer)

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
                if self.total is not None and self._got > self.total:
                    raise self._unavailable(f"it goes on after the {self.total} bytes that it has")
                return piece
            await self._go_on(piece)

    async def _next(self) -> bytes | str:
        """What comes next, or in words why nothing does."""
        import aiohttp

        if self._response is None:
            return "the connection was cut"
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            piece = await self._response.content.read(CHUNK)
        except (aiohttp.ClientError, TimeoutError) as error:
            return b"" if self._got == self.total else _told(error)
        if not piece and self.total not in (None, self._got):
            return f"it ended after {self._got} of {self.total} bytes"
        self._waited += clock() - began
        self._came += len(piece)
        return self._too_slow() or piece

    def _too_slow(self) -> str:
        """In words that it is, as far as that can be told yet. Nobody counts for how long we have not read."""
        if self._waited < SILENCE_TIMEOUT:
            return ""
        came, waited = self._came, self._waited
        self._waited, self._came = 0.0, 0
        return "" if came >= LEAST else f"it sent {came} bytes in {waited:.0f} s"

    async def _go_on(self, why: str) -> None:
        """Have the rest come, or say why it cannot. Raises ImageUnavailable."""
        self.leave()
        self._waited, self._came = 0.0, 0
        self._cuts = 1 if self._got - self._cut_at >= LEAST else self._cuts + 1
        self._cut_at = self._got
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
        elif (total := self._total_with(answer.headers)) is None:
            raise self._unavailable(f"{why}, and what its server goes on with is not the rest")
        else:
            self.total = total
            self.doubt = self.doubt or self._doubt(answer)

    def _total_with(self, said: Mapping[str, str]) -> int | None:
        """How many bytes there are in all, where an answer begins where they ended and is of the same: a server may not
        know If-Range. None otherwise, and where still nobody says how many: the answer may end before they do."""
        found = _range(said.get("Content-Range", ""))
        if found is None or int(found[1]) != self._got or not self._is_of_the_same(said):
            return None
        total = self.total if found[2] == "*" else int(found[2])
        return total if self.total in (None, total) else None

    def _is_of_the_same(self, said: Mapping[str, str]) -> bool:
        """Whether nothing that an answer says of its content is other than what proves it."""
        key = "ETag" if self._proof and self._proof.startswith('"') else "Last-Modified"
        return said.get(key) in (None, self._proof)

    async def _ask(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse | str:
        """The answer, or in words why there is none."""
        import aiohttp

        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await self._session.get(self._url, headers=headers)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return _told(error)

    def _doubt(self, answer: aiohttp.ClientResponse) -> str:
        chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
        way = [one.url.scheme for one in (*answer.history, answer)]
        if self._url.lower().startswith("https:") and {*way} != {"https"}:
            return "it is redirected from https to http, where anybody on the way can change it"
        if self.total is None and not chunked:
            return "its server does not say where it ends, so that it may have been cut short"
        return ""

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


_range = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)").fullmatch


async def _without_password(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Whoever may look at the environment looks into ~/.netrc too: what stands there is not for the servers that a
    document names."""
    request.headers.pop("Authorization", None)
    return await handler(request)


def _says(answer: aiohttp.ClientResponse) -> str:
    return excerpt(f"the server says {answer.status} {answer.reason}")


def _told(error: Exception) -> str:
    """What went wrong, by what the library says of it."""
    import aiohttp

    match error:
        case aiohttp.TooManyRedirects():
            return "its redirects have no end"
        case aiohttp.ClientConnectorCertificateError():  # which is a ValueError, too
            return excerpt(str(error))
        case aiohttp.NonHttpUrlClientError() | ValueError():
            return "that, where it redirects to, or a proxy of the environment is no address of a web server"
        case aiohttp.ClientPayloadError():
            return "the connection was cut"
        case aiohttp.ClientHttpProxyError():
            return excerpt(f"the proxy says {error.status} {error.message}")
        case aiohttp.ClientResponseError():
            return excerpt(f"what answers speaks no HTTP: {error.message}")
        case _:
            return excerpt(str(error) or f"no answer within {ANSWER_TIMEOUT:.0f} s")
