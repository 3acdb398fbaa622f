"""A file that only takes up room, so that a full disk leaves enough to record that machines are stopped and destroyed.

It is given up when its file system is nearly full, and made again when there is plenty.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SIZE = 4 << 20
"""Bytes: hundreds of transactions, each of which SQLite's write-ahead log takes a few pages for."""
SCARCE = 2 << 20
"""Bytes that are free when it is given up."""
PLENTY = 64 << 20
"""Bytes that are free when it is made again."""


class Ballast:
    """The ballast of one directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def adjust(self) -> None:
        """Give it up or make it again, as there is room. Never raises: where nothing can be told of the disk, the write
        that is to come tells."""
        with suppress(OSError):
            free = self._free()
            if free < SCARCE:
                self._path.unlink(missing_ok=True)
            elif free > PLENTY and not self._path.exists():
                self._make()

    def _free(self) -> int:
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize

    def _make(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        except OSError:
            with suppress(OSError):
                self._path.unlink()
            raise
        finally:
            os.close(descriptor)
