"""A script's work in a guest: how far it was seen to get, and what was kept of what it left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Content = bytes | Path
"""What is put into a guest: bytes, or the file of this host that holds them."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a run in its guest.

    `begun`: its script may have begun, and is never begun again. `data` are bytes of its output from the asked offset;
    they may stop before `size`, which is what there is so far. `exit_code` is given only with a `size` that is final:
    every byte that the script wrote before it ended lies before it. (What a process that it left behind wrote may have
    been read beyond it.) `alive` False: no exit code will come, for what would have written it was killed or did not
    outlive the guest's reboot.

    A guest that keeps its files in memory has forgotten a run after a reboot: `begun` is False again.
    """

    begun: bool
    data: bytes = b""
    size: int = 0
    exit_code: int | None = None
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was collected: its path in the guest, its name below the folder, bytes, and sha256 in hexadecimal.
    Bytes of the path that are no UTF-8 are surrogate escapes."""

    path: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is collected at most: files, their bytes together, directory entries that are read to find them, levels
    that a `**` goes down, and seconds."""

    files: int = 1000
    total: int = 1 << 30
    entries: int = 50_000
    depth: int = 32
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What was collected. `notes` say, a sentence part each, what was left out or cut off, and why."""

    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()
