"""How much git may write: on the same disk an agent records what it does, and ends where it cannot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

KEPT = 16 << 20
"""Bytes of a disk that git leaves free; of a small one, a quarter."""
_LEAST = 1 << 18
"""Bytes without which git is not begun: a clone with nothing in it takes some of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on a disk, and what git may take of it, in bytes."""

    directory: Path
    free: int
    left: int

    @classmethod
    def of(cls, directory: Path) -> Room:
        """That of the disk on which the directory lies. Raises OSError."""
        found = os.statvfs(directory)
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        return cls(directory, free, max(0, free - min(KEPT, size // 4)))

    @property
    def is_none(self) -> bool:
        return self.left < _LEAST

    def is_more_than(self, other: Room) -> bool:
        """Whether room was made since."""
        return self.left >= other.left + _LEAST

    @property
    def of_a_file(self) -> int:
        """The most that a file may take. git writes a pack first and its index after it, each into one file; the
        index of a hostile pack is larger than that, and a seventh of its size comes on top (gitformat-pack(5))."""
        return self.left * 2 // 5

    def __str__(self) -> str:
        left, most = self.free >> 20, self.of_a_file >> 20
        return f"{self.directory} has {left} MiB left, of which one file of git gets {most}"
