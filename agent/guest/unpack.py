"""Decompression as a stream: a piece goes in, its plain bytes come out, and the end is proven.

Memory holds one piece of plain bytes at a time, however much a few packed bytes stand for,
and the window that the data asks for. Compressed data that ends early, or goes on after its end with something else,
is an error here, since most stream interfaces pass over both in silence.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, assert_never

from agent.guest.zstd import MAX_WINDOW, Zstd
from state.spec.resolved import Decompress

PIECE = 1 << 20
"""Plain bytes that are unpacked at once, at most."""
HEAD = 512
"""Plain bytes of the beginning that are kept for a look."""


class Broken(ValueError):
    """The compressed data is damaged; the text is a sentence part."""


class Out(Protocol):
    """Where plain bytes go; `size` counts them. What is written holds for the time of the call."""

    size: int

    def write(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...


class _Decoder(Protocol):
    """A stream of one kind. Raises what its library raises."""

    def plain(self, data: bytes) -> Iterator[bytes | memoryview]:
        """What the next packed bytes stand for, in parts of PIECE at most that hold until the next is asked for."""

    def whole(self) -> bool:
        """Whether what came ends where it may. The last call."""


class Unpacker:
    """Feeds pieces of `kind` through to `out`, never beyond `max_size` bytes of output. `head`: the first HEAD bytes of
    them, as far as they have come."""

    def __init__(self, kind: Decompress, out: Out, max_size: int) -> None:
        self._kind = kind
        self._out = out
        self._max_size = max_size
        self._decoder = None if kind == "none" else _decoder(kind)
        self.head = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises Broken."""
        if self._decoder is None:
            self._emit(data)
            return
        parts = self._decoder.plain(data)
        while (plain := self._next(parts)) is not None:
            self._emit(plain)

    def finish(self) -> None:
        """Say that all has been fed. Raises Broken when the data was cut short."""
        if self._decoder is not None and not self._decoder.whole():
            raise Broken(f"the {self._kind} data ends before its end")
        self._out.finish()

    def _next(self, parts: Iterator[bytes | memoryview]) -> bytes | memoryview | None:
        try:
            return next(parts, None)
        except Exception as error:
            # Each library has its own class for damage.
            raise Broken(f"the {self._kind} data is damaged: {error}") from error

    def _emit(self, plain: bytes | memoryview) -> None:
        if self._out.size + len(plain) > self._max_size:
            raise Broken(f"it unpacks to more than its max_size, {self._max_size} bytes")
        if len(self.head) < HEAD:
            self.head += plain[: HEAD - len(self.head)]
        self._out.write(plain)


class _Member(Protocol):
    """One part of a stream, as lzma has it. Data is given only where `needs_input` says so."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Members:
    """Members or streams after each other are one, as `gzip` and `xz` have it. Between two they pass over zeros: those
    of tapes, and of stream padding."""

    def __init__(self, begin: Callable[[], _Member]) -> None:
        self._begin = begin
        self._member = begin()
        self._fresh = True

    def plain(self, data: bytes) -> Iterator[bytes]:
        data = data.lstrip(b"\0") if self._fresh else data
        while data or not self._member.needs_input:
            if plain := self._member.decompress(data, PIECE):
                yield plain
            data = b""
            self._fresh = self._member.eof
            if self._fresh:
                data = self._member.unused_data.lstrip(b"\0")
                self._member = self._begin()

    def whole(self) -> bool:
        return self._fresh


class _Gzip:
    """zlib behind the interface of lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain = self._inner.decompress(data or self._inner.unconsumed_tail, max_length)
        self.needs_input = len(plain) < max_length and not self._inner.unconsumed_tail
        return plain


def _xz() -> _Member:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_WINDOW)


def _decoder(kind: Literal["zstd", "gzip", "xz"]) -> _Decoder:
    match kind:
        case "gzip":
            return _Members(_Gzip)
        case "xz":
            return _Members(_xz)
        case "zstd":
            return Zstd()
    assert_never(kind)
