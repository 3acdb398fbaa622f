"""Decompression as a stream, into a sparse file: a piece goes in, its plain bytes go to disk, and the end is proven.

The only doorway to zstandard. Compressed data that ends early, or goes on after its end with something else, is an
error here, since most stream interfaces pass over both in silence.
"""

from __future__ import annotations

import lzma
import os
import zlib
from typing import Protocol, assert_never

from state.spec.resolved import Decompress

MAX_WINDOW = 1 << 27
"""Bytes of memory that a zstd frame may ask for: what the `zstd` program allows by itself."""
_HOLE = 1 << 16
_ZEROS = bytes(_HOLE)
_FEED = 1 << 13
"""Compressed bytes that are given to a decoder at once: few, since each may stand for 40,000 plain ones."""


class Broken(ValueError):
    """The compressed data is damaged; the text is a sentence part."""


class _Decoder(Protocol):
    """The interface that zlib, lzma and zstandard share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class SparseFile:
    """Writes to a file descriptor, leaving holes for zeros."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append. Blocks of zeros become holes."""
        for at in range(0, len(data), _HOLE):
            piece = data[at : at + _HOLE]
            # Comparing bytes is one memcmp; comparing memoryviews is several times slower.
            if piece != _ZEROS[: len(piece)]:
                _write_at(self._descriptor, piece, self.size)
            self.size += len(piece)

    def finish(self) -> None:
        """Set the length, and make it durable."""
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)


class Unpacker:
    """Feeds pieces of `kind` through to a file, never beyond `max_size` bytes of output."""

    def __init__(self, kind: Decompress, out: SparseFile, max_size: int) -> None:
        self._kind = kind
        self._out = out
        self._max_size = max_size
        self._decoder = _decoder(kind)
        self._fresh = True

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises Broken."""
        if self._decoder is None:
            self._emit(data)
            return
        for at in range(0, len(data), _FEED):
            self._decode(data[at : at + _FEED])

    def finish(self) -> None:
        """Say that all has been fed. Raises Broken when the data was cut short."""
        if self._decoder is not None and not self._fresh:
            raise Broken(f"the {self._kind} data ends before its end")
        self._out.finish()

    def _decode(self, data: bytes) -> None:
        while data:
            decoder = self._decoder
            if decoder is None:
                return
            try:
                plain = decoder.decompress(data)
            except Exception as error:
                # Each library has its own class for damage.
                raise Broken(f"the {self._kind} data is damaged: {error}") from error
            self._emit(plain)
            self._fresh = decoder.eof
            data = b""
            if decoder.eof:
                # Several frames or members after each other are one stream, as the command line tools have it.
                data = decoder.unused_data
                self._decoder = _decoder(self._kind)

    def _emit(self, plain: bytes) -> None:
        if self._out.size + len(plain) > self._max_size:
            raise Broken(f"it unpacks to more than {self._max_size} bytes")
        self._out.write(plain)


def _decoder(kind: Decompress) -> _Decoder | None:
    match kind:
        case "none":
            return None
        case "gzip":
            return zlib.decompressobj(wbits=31)
        case "xz":
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_WINDOW)
        case "zstd":
            import zstandard

            return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    assert_never(kind)


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
