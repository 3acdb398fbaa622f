"""A stream of zstd with bounded memory: the only doorway to zstandard.

Its interfaces that are handed pieces return all that a piece stands for, and four bytes may stand for 128 KiB. The one
that fills a buffer of the caller's does not, and the pages of a buffer that stays are not asked of the kernel anew each
time. It draws its input from a file: from `_Inlet` here, which has the piece at hand and no more.

It also passes over an end that comes too early. So where the end is said to be, one more frame is given to it: what
begins in the middle of something is not read as a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, cast

MAX_WINDOW = 1 << 27
"""Bytes of memory that the window of a frame may ask for: what the `zstd` program allows by itself."""

_AT_ONCE = 1 << 20
"""Plain bytes at once: few calls for many of them, and yet they are still in the processor's cache when written."""
_LAST = b"."
_LAST_FRAME = b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00" + _LAST
"""A frame for that one byte: magic number, one segment of one byte, and a last, raw block of it (RFC 8878, 3.1.1)."""


class Zstd:
    """Frames after each other, as the program has them."""

    def __init__(self) -> None:
        import zstandard

        self._inlet = _Inlet()
        self._reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(
            cast("IO[bytes]", self._inlet),  # it asks for `read` alone
            read_across_frames=True,
        )
        self._buffer = memoryview(bytearray(_AT_ONCE))

    def plain(self, data: bytes) -> Iterator[memoryview]:
        """What the next packed bytes stand for, in parts that hold until the next is asked for. Raises ZstdError."""
        self._inlet.piece = data
        while size := self._more():
            yield self._buffer[:size]

    def whole(self) -> bool:
        """Whether a frame has come to its end, and nothing after it. The last call."""
        import zstandard

        # In two pieces: behind the cut head of a frame, the library takes what looks like a whole frame where a piece
        # begins for that one (ZSTD_decompressStream, which looks for frames that it can decode at once).
        pieces = (_LAST_FRAME[:1], _LAST_FRAME[1:])
        try:
            return b"".join(bytes(part) for piece in pieces for part in self.plain(piece)) == _LAST
        except zstandard.ZstdError:
            return False

    def _more(self) -> int:
        try:
            return self._reader.readinto1(self._buffer)
        except _Drained:
            return 0


class _Inlet:
    """A file that has one piece, and then none for now. An end would be the end for good; this is met with a buffer
    that nothing was put into yet."""

    def __init__(self) -> None:
        self.piece = b""

    def read(self, _: int) -> bytes:
        """Raises _Drained."""
        if not self.piece:
            raise _Drained
        piece, self.piece = self.piece, b""
        return piece


class _Drained(Exception):
    """All of the piece was taken."""
