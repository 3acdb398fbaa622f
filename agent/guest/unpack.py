"""Decompression as a stream: a piece goes in, its plain bytes come out, and the end is proven.

Memory holds one piece of plain bytes at a time, however much a few packed bytes stand for,
and the window that the data asks for. Compressed data that ends early, or goes on after its end with something else,
is an error here, since most stream interfaces pass over both in silence.
"""

from __future__ import annotations

import lzma
import zlib
from typing import Literal, Protocol, assert_never

from agent.guest.zstd import MAX_WINDOW, ZstdFrame
from state.spec.resolved import Decompress

PIECE = 1 << 20
"""Plain bytes that are unpacked at once, at most."""
HEAD = 512
"""Plain bytes of the beginning that are kept for a look."""


class Broken(ValueError):
    """The compressed data is damaged; the text is a sentence part."""


class _Decoder(Protocol):
    """The interface that lzma and zstd share. Data is given only where `needs_input` says so."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Out(Protocol):
    """Where plain bytes go; `size` counts them."""

    size: int

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class Unpacker:
    """Feeds pieces of `kind` through to `out`, never beyond `max_size` bytes of output. `head`: the first HEAD bytes of
    them, as far as they have come."""

    def __init__(self, kind: Decompress, out: Out, max_size: int) -> None:
        self._kind = kind
        self._out = out
        self._max_size = max_size
        self._decoder = None if kind == "none" else _decoder(kind)
        self._fresh = True
        self.head = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises Broken."""
        decoder = self._decoder
        if decoder is None or self._kind == "none":
            self._emit(data)
            return
        data = self._unpadded(data) if self._fresh else data
        while data or not decoder.needs_input:
            try:
                plain = decoder.decompress(data, PIECE)
            except Exception as error:
                # Each library has its own class for damage.
                raise Broken(f"the {self._kind} data is damaged: {error}") from error
            if plain:
                self._emit(plain)
            data = b""
            self._fresh = decoder.eof
            if decoder.eof:
                # Several frames or members after each other are one stream, as the command line tools have it.
                data = self._unpadded(decoder.unused_data)
                decoder = _decoder(self._kind)
        self._decoder = decoder

    def _unpadded(self, data: bytes) -> bytes:
        """What begins between two members: `gzip` and `xz` pass over zeros there, of tapes and of stream padding."""
        return data if self._kind == "zstd" else data.lstrip(b"\0")

    def finish(self) -> None:
        """Say that all has been fed. Raises Broken when the data was cut short."""
        if self._decoder is not None and not self._fresh:
            raise Broken(f"the {self._kind} data ends before its end")
        self._out.finish()

    def _emit(self, plain: bytes) -> None:
        if self._out.size + len(plain) > self._max_size:
            raise Broken(f"it unpacks to more than its max_size, {self._max_size} bytes")
        if len(self.head) < HEAD:
            self.head += plain[: HEAD - len(self.head)]
        self._out.write(plain)


class _Gzip:
    """zlib behind the interface of the others."""

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


def _decoder(kind: Literal["zstd", "gzip", "xz"]) -> _Decoder:
    match kind:
        case "gzip":
            return _Gzip()
        case "xz":
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_WINDOW)
        case "zstd":
            return ZstdFrame()
    assert_never(kind)
