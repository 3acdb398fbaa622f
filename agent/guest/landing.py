"""An image on its way into the store: from packed pieces to a whole file, or to nothing.

All but `abandon` is called in one thread, which alone touches the descriptor: it closes it when it is done with it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent import durable
from agent.guest import qcow2
from agent.guest.unpack import SparseFile, Unpacker
from state.spec.resolved import Decompress, DiskFormat

MAX_SIZE = 256 << 30
"""Bytes that one image may have when it is unpacked."""
_SECTOR = 512
_STRIDE = 16 << 20


class Room:
    """What may be written to the disk of `directory` before only `floor` bytes of it are left free."""

    def __init__(self, directory: Path, floor: int) -> None:
        self._directory = directory
        self._floor = floor
        self._granted = 0

    def check(self, size: int) -> None:
        """Raises NoRoom where not even `size` bytes can be written."""
        free = self._free()
        if free - size < self._floor:
            raise self._none(free, size)

    def spend(self, size: int) -> None:
        """Before `size` bytes are written. The disk is asked once for many of them, as others write there too. Raises
        NoRoom."""
        if size > self._granted:
            free = self._free()
            if free - size < self._floor:
                raise self._none(free, size)
            self._granted = min(size + _STRIDE, free - self._floor)
        self._granted -= size

    def _free(self) -> int:
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def _none(self, free: int, size: int) -> NoRoom:
        return NoRoom(
            f"{self._directory} has {free >> 20} MiB left for {-(-size >> 20)} MiB more, and a fetch leaves"
            f" {self._floor >> 20} MiB",
            size + self._floor - free,
        )


class NoRoom(Exception):
    """The disk is nearly full; the text is a sentence part, `short` how many bytes are missing."""

    def __init__(self, text: str, short: int) -> None:
        super().__init__(text)
        self.short = short


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is complete and on disk, with its size and that of the disk that a guest sees, in bytes."""

    path: Path
    size: int
    virtual_size: int


class Landing:
    """The bytes of one image, packed as they come, on their way to a file of `directory` with a dot before its name."""

    def __init__(self, directory: Path, floor: int, decompress: Decompress) -> None:
        self.path = directory / f".{secrets.token_hex(8)}{durable.UNFINISHED}"
        self._room = Room(directory, floor)
        self._decompress = decompress
        self._abandoned = False
        self._descriptor: int | None = None
        self._unpacker: Unpacker | None = None

    def open(self) -> None:
        """Before anything else; a file of that name is nobody else's."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        out = SparseFile(self._descriptor, self._spend)
        self._unpacker = Unpacker(self._decompress, out, MAX_SIZE)

    def expect(self, size: int | None) -> None:
        """So many bytes are to come, packed or not; None: nobody knows. Raises NoRoom where they cannot find room."""
        if size is not None and self._decompress == "none":
            self._room.check(size)

    def take(self, piece: bytes) -> None:
        """The next packed bytes. Raises Broken, NoRoom and OSError."""
        assert self._unpacker is not None  # noqa: S101 - it was opened
        self._unpacker.feed(piece)

    def finish(self, form: DiskFormat) -> Whole:
        """What has come is all, and on disk. Raises Broken, NotUsable, NoRoom and OSError."""
        assert self._unpacker is not None  # noqa: S101 - as above
        assert self._descriptor is not None  # noqa: S101 - as above
        self._unpacker.finish()
        size = os.fstat(self._descriptor).st_size
        header = os.pread(self._descriptor, qcow2.HEADER_LENGTH, 0)
        virtual_size = qcow2.virtual_size(header) if form == "qcow2" else _sectors(size)
        os.fchmod(self._descriptor, 0o444)
        return Whole(self.path, size, virtual_size)

    def abandon(self) -> None:
        """Have what is under way end soon: nobody waits for it any more. From any thread."""
        self._abandoned = True

    def close(self) -> None:
        """Let go of the file, and remove it unless it was put elsewhere."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            with suppress(FileNotFoundError):
                self.path.unlink()

    def _spend(self, size: int) -> None:
        if self._abandoned:
            raise Abandoned
        self._room.spend(size)


class Abandoned(Exception):
    """Nobody waits for this image any more."""


def _sectors(size: int) -> int:
    if size == 0:
        raise qcow2.NotUsable("it is empty")
    return -(-size // _SECTOR) * _SECTOR
