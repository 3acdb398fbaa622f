"""One frame of zstd at a time with bounded memory: the only doorway to zstandard.

Its decompressobj returns all that the bytes stand for which it is handed, and four bytes may stand for 128 KiB. So it
is handed a few blocks at a time, as the format draws them (RFC 8878, sections 3.1.1 and 3.1.2): the headers of a frame
and of each block tell how long they are, and a block stands for 128 KiB at most. What blocks hold, and whether any of
it is sound, is for the library alone.
"""

from __future__ import annotations

MAX_WINDOW = 1 << 27
"""Bytes of memory that the window of a frame may ask for: what the `zstd` program allows by itself."""

_MAGIC = 0xFD2FB528
_SKIPPABLE, _ANY_SKIPPABLE = 0x184D2A50, 0xFFFFFFF0
_DICTIONARY_ID = (0, 1, 2, 4)
_CONTENT_SIZE = (0, 2, 4, 8)
_RLE = 1
_BLOCK = 1 << 17
_AT_ONCE = 1 << 20


class ZstdFrame:
    """Decodes one frame. The interface is that of `lzma.LZMADecompressor`. Of output at most `max_length` comes at
    once, or what one block stands for where that is more."""

    def __init__(self) -> None:
        import zstandard

        # With room for all that comes, a call runs from its beginning to its end without the lock of the interpreter.
        self._inner = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj(
            write_size=_AT_ONCE
        )
        self._data = b""
        self._at = 0
        self._due = 0
        """Bytes from `_at` on that belong to one header or one block."""
        self._in_blocks = False
        self._over = False
        """Whether nothing of the frame comes behind what is due."""
        self._trailer = 0

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._at == len(self._data) or not (self._due or self._measured())

    @property
    def unused_data(self) -> bytes:
        """What came after the frame."""
        return self._data[self._at :] if self.eof else b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The plain bytes of what comes next, often none."""
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        start = self._at
        for _ in range(max(1, min(max_length, _AT_ONCE) // _BLOCK)):
            if (self._over and not self._due) or self.needs_input:
                break
            end = min(self._at + self._due, len(self._data))
            self._due -= end - self._at
            self._at = end
        if self._at == start:
            return b""
        return self._inner.decompress(memoryview(self._data)[start : self._at])

    def _measured(self) -> bool:
        """Find out how long the header or block is that begins here; False when too little of it is there."""
        there = self._data[self._at : self._at + 8]
        self._due = self._of_block(there) if self._in_blocks else self._of_header(there)
        return self._due > 0

    def _of_header(self, there: bytes) -> int:
        if len(there) < 8:
            return 0  # no frame is shorter
        magic = int.from_bytes(there[:4], "little")
        if magic & _ANY_SKIPPABLE == _SKIPPABLE:
            self._over = True
            return 8 + int.from_bytes(there[4:8], "little")
        descriptor = there[4]
        single = descriptor >> 5 & 1
        self._in_blocks = magic == _MAGIC
        self._trailer = 4 * (descriptor >> 2 & 1)
        window = 0 if single else 1
        content = _CONTENT_SIZE[descriptor >> 6] or single
        return 5 + window + _DICTIONARY_ID[descriptor & 3] + content

    def _of_block(self, there: bytes) -> int:
        if len(there) < 3:
            return 0
        header = int.from_bytes(there[:3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._over = bool(last)
        return 3 + (1 if kind == _RLE else size) + (self._trailer if last else 0)
