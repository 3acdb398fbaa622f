"""A cpio archive in the "newc" form, as an initramfs is (driver-api/early-userspace of the kernel's documentation)."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from guests.image import EPOCH


@dataclass
class Archive:
    """Written by hand, so that it can hold root's files without root."""

    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = field(default_factory=dict)

    def directory(self, name: str) -> None:
        for parent in reversed(Path(name).parents):
            if parent != Path() and str(parent) not in self.entries:
                self.directory(str(parent))
        self.entries.setdefault(name, (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self.directory(str(Path(name).parent))
        self.entries[name] = (stat.S_IFREG | mode, content, (0, 0))

    def link(self, name: str, target: str) -> None:
        self.entries.setdefault(name, (stat.S_IFLNK | 0o777, target.encode(), (0, 0)))

    def device(self, name: str, major: int, minor: int) -> None:
        self.entries[name] = (stat.S_IFCHR | 0o600, b"", (major, minor))

    def pack(self) -> bytes:
        packed = bytearray()
        entries = {**self.entries, "TRAILER!!!": (0, b"", (0, 0))}
        for number, (name, (mode, content, (major, minor))) in enumerate(entries.items(), start=1):
            fields = (
                number,
                mode,
                0,
                0,
                1,
                EPOCH,
                len(content),
                0,
                0,
                major,
                minor,
                len(name) + 1,
                0,
            )
            packed += (
                b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
            )
            packed += b"\0" * (-len(packed) % 4)
            packed += content
            packed += b"\0" * (-len(packed) % 4)
        return bytes(packed)
