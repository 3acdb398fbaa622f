"""A web server that misbehaves as it is told, one answer at a time, on this host."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.waiting import eventually


@dataclass(frozen=True)
class Turn:
    """How one request is answered. `cut`: only so many bytes of the body are sent, and the connection then ends, or
    stands still (`stalls`). `longer`: by how much the length that it tells is too large. `shift`: by how much the rest
    of a body begins too late. `part`: of the rest of a body it sends so many bytes. `framing`: how it tells where the
    body ends, `close` for not at all. `trickles`: what follows, or all, comes byte by byte.
    `then`: what the server has from the next request on, under another tag."""

    cut: int | None = None
    stalls: bool = False
    longer: int = 0
    status: str | None = None
    location: str | None = None
    ignores_ranges: bool = False
    shift: int = 0
    part: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    trickles: Literal["", "body", "answer"] = ""
    ignores_conditions: bool = False
    then: bytes | None = None


@dataclass
class Server:
    """`content` is what it has; `headers` goes with every answer, `tag` as the ETag, by which it compares. `turns` are
    the answers to come, and then it behaves. `asked` are the requests and `targets` their first lines;
    `left` counts who left while it stood still."""

    content: bytes
    tag: str | None = '"one"'
    headers: dict[str, str] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    left: int = 0
    url: str = ""
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def ranges(self) -> list[str | None]:
        """What of it was asked for."""
        return [one.get("range") for one in self.asked]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._one(reader, writer)
        finally:
            writer.close()
            self._open.discard(writer)

    async def close(self) -> None:
        """Leave whoever is still connected."""
        for writer in self._open:
            writer.close()
        await eventually(lambda: not self._open, "everybody was left")

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            first, *lines = (
                (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            )
            asked = {
                key.lower(): value for key, _, value in (line.partition(": ") for line in lines)
            }
            self.targets.append(first.removesuffix(" HTTP/1.1"))
            self.asked.append(asked)
            turn = self.turns.pop(0) if self.turns else Turn()
            head, body = self._answer(turn, asked)
            if turn.then is not None:
                self.content, self.tag = turn.then, '"two"'
            at = len(head) + len(body[: turn.cut]) if turn.trickles != "answer" else 0
            writer.write((head + body)[:at])
            await writer.drain()
            if turn.trickles:
                await self._trickle(writer, (head + body)[at:])
            if turn.stalls:
                await reader.read()
                self.left += 1

    async def _trickle(self, writer: asyncio.StreamWriter, rest: bytes) -> None:
        for byte in rest:
            if writer.is_closing():
                self.left += 1
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)

    def _answer(self, turn: Turn, asked: dict[str, str]) -> tuple[bytes, bytes]:
        body, status, more = self.content, turn.status or "200 OK", dict(self.headers)
        start = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        proof = self.tag or self.headers.get("Last-Modified")
        if (
            turn.status is None
            and start
            and not turn.ignores_ranges
            and (turn.ignores_conditions or asked.get("if-range", proof) == proof)
        ):
            at = int(start[1]) + turn.shift
            if at < len(body):
                end = len(body) if turn.part is None else min(at + turn.part, len(body))
                more["Content-Range"] = f"bytes {at}-{end - 1}/{len(body)}"
                status, body = "206 Partial Content", body[at:end]
            else:
                status, body = "416 Range Not Satisfiable", b""
        if turn.location is not None:
            status, more["Location"], body = "302 Found", turn.location, b""
        if self.tag is not None:
            more["ETag"] = self.tag
        more["Connection"] = "close"
        if turn.framing == "length":
            more["Content-Length"] = str(len(body) + turn.longer)
        elif turn.framing == "chunked":
            more["Transfer-Encoding"] = "chunked"
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        lines = [f"HTTP/1.1 {status}", *(f"{key}: {value}" for key, value in more.items())]
        return "\r\n".join([*lines, "", ""]).encode(), body


@asynccontextmanager
async def misbehaving(
    content: bytes, *turns: Turn, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Such a server while the block lasts."""
    server = Server(content, turns=list(turns))
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=tls)
    async with listener:
        scheme = "https" if tls else "http"
        server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/image.raw"
        try:
            yield server
        finally:
            await server.close()
