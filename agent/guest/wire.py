"""How SFTP writes numbers, texts and the attributes of files, and how it is read from a side that may send anything."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from stat import S_IMODE


class Broken(Exception):
    """The stream ended, fell silent, or carries something that is no SFTP."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a file: bytes, and its type and permission bits as in stat(2); None where the other side does not say."""

    size: int | None = None
    mode: int | None = None


class Answer:
    """Takes one answer apart, from its start to its end. Raises struct.error where it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._from = data, 0, 0

    def begin(self) -> None:
        """What comes from here on is the answer."""
        self._from = self._at

    def rewind(self) -> None:
        self._at = self._from

    def _take(self, form: str) -> int:
        found: int = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return found

    def number(self) -> int:
        return self._take(">I")

    def text(self) -> bytes:
        length = self.number()
        found = self._data[self._at : self._at + length]
        if len(found) != length:
            raise struct.error("cut short")
        self._at += length
        return found

    def pairs(self) -> Iterator[bytes]:
        """The first of every two texts."""
        while self._at < len(self._data):
            yield self.text()
            self.text()

    def attributes(self) -> Attributes:
        flags = self.number()
        size = self._take(">Q") if flags & 0x1 else None
        if flags & 0x2:
            self._take(">Q")  # uid and gid
        mode = self.number() if flags & 0x4 else None
        if flags & 0x8:
            self._take(">Q")  # both times
        if flags & 0x80000000:
            for _ in range(self.number()):
                self.text()
                self.text()
        return Attributes(size, mode)

    def names(self) -> list[tuple[bytes, Attributes]]:
        found = []
        for _ in range(self.number()):
            name = self.text()
            self.text()  # as `ls -l` would show it
            found.append((name, self.attributes()))
        return found


@contextmanager
def understood() -> Iterator[None]:
    """What is too short to be taken apart breaks the conversation."""
    try:
        yield
    except struct.error as error:
        raise Broken("it sends an answer that is cut short") from error


def text(said: bytes) -> bytes:
    """A text with its length before it."""
    return struct.pack(">I", len(said)) + said


def permissions(mode: int) -> bytes:
    """Attributes that say nothing but the permission bits."""
    return struct.pack(">II", 0x4, S_IMODE(mode))
