"""An image on its way into the store: from packed pieces to a whole file, or to nothing.

All but `abandon` is called in one thread. That and the one which puts the file on disk alone touch the descriptor,
which is closed when both are done with it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent import durable
from agent.guest import inspection, qcow2
from agent.guest.qcow2 import NotUsable
from agent.guest.sparse import SparseFile
from agent.guest.unpack import Broken, Unpacker
from state.spec.resolved import ImageSpec

_OVERHEAD = 16 << 20
"""Bytes that come for nothing: packed data that unpacks to less than itself, and has no end."""
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
    """The bytes of one image, packed as they come, on their way to a file of `directory` with a dot before its name.
    `run_as`: the user who has a look at a qcow2, None to stay who we are."""

    def __init__(self, directory: Path, floor: int, image: ImageSpec, run_as: int | None) -> None:
        self.path = directory / f".{secrets.token_hex(8)}{durable.UNFINISHED}"
        self._room = Room(directory, floor)
        self._image = image
        self._run_as = run_as
        self._packed = 0
        self._abandoned = False
        self._descriptor: int | None = None
        self._out: SparseFile | None = None
        self._unpacker: Unpacker | None = None
        self._virtual_size: int | None = None
        """What the header of a qcow2 says, once it has come."""

    def open(self) -> None:
        """Before anything else; a file of that name is nobody else's. Raises NotUsable and OSError."""
        if self._image.format == "qcow2":
            inspection.prepare()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        self._out = SparseFile(self._descriptor, self._spend)
        self._unpacker = Unpacker(self._image.decompress, self._out, self._image.max_size)

    def expect(self, size: int | None) -> None:
        """So many bytes are to come, packed or not; None: nobody knows. Raises Broken where they are more than the
        image may have, NoRoom where they find no room."""
        if size is not None and self._image.decompress == "none":
            if size > self._image.max_size:
                raise Broken(f"it has {size} bytes, and its max_size is {self._image.max_size}")
            self._room.check(size)

    def take(self, piece: bytes) -> None:
        """The next packed bytes. Raises Broken, NoRoom and OSError, and NotUsable as soon as the header tells."""
        assert self._unpacker is not None  # noqa: S101 - it was opened
        self._packed += len(piece)
        if self._packed > self._image.max_size + _OVERHEAD:
            raise Broken(f"more has come than its max_size, {self._image.max_size} bytes")
        self._unpacker.feed(piece)
        if len(self._unpacker.head) >= qcow2.HEADER_LENGTH:
            self._look(self._unpacker.head)

    def finish(self) -> Whole:
        """What has come is all, and on disk. Raises Broken, NotUsable, NoRoom and OSError."""
        assert self._unpacker is not None  # noqa: S101 - as above
        assert self._descriptor is not None  # noqa: S101 - as above
        assert self._out is not None  # noqa: S101 - as above
        self._unpacker.finish()
        size = self._out.size
        self._look(self._unpacker.head)
        os.fchmod(self._descriptor, 0o444)
        if self._image.format == "qcow2":
            inspection.check(self._descriptor, self._virtual_size or 0, self._run_as)
        return Whole(self.path, size, self._virtual_size or _sectors(size))

    def abandon(self) -> None:
        """Have what is under way end soon: nobody waits for it any more. From any thread."""
        self._abandoned = True

    def close(self) -> None:
        """Let go of the file, and remove it unless it was put elsewhere."""
        if self._out is not None:
            self._out.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            with suppress(FileNotFoundError):
                self.path.unlink()

    def _look(self, header: bytes) -> None:
        """See what the header of a qcow2 says. A raw disk is not looked into: a guest may have written there what it
        liked. Raises NotUsable."""
        if self._image.format == "raw" or self._virtual_size is not None:
            return
        size = qcow2.virtual_size(header[: qcow2.HEADER_LENGTH])
        if size > self._image.max_size:
            raise NotUsable(
                f"its virtual size is {size} bytes, and its max_size is {self._image.max_size}"
            )
        self._virtual_size = size

    def _spend(self, size: int) -> None:
        if self._abandoned:
            raise Abandoned
        self._room.spend(size)


class Abandoned(Exception):
    """Nobody waits for this image any more."""


def _sectors(size: int) -> int:
    if size == 0:
        raise NotUsable("it is empty")
    return -(-size // _SECTOR) * _SECTOR
