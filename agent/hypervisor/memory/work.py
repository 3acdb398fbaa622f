"""What scripts do in guests that exist in memory: nothing, but what was told to the host beforehand."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from stat import S_IFDIR, S_IFREG

from agent.guest.sftp import Attributes, NoSuchFile
from state.work import Look


@dataclass(frozen=True)
class Scripted:
    """How a script goes. `output`: pieces, each with the seconds before it comes. `exit_code` comes `last` seconds
    after the last piece; None: it never ends. `leaves`: files, by absolute path, that are there from its start."""

    output: tuple[tuple[float, bytes], ...] = ((0.0, b"script ran in memory\n"),)
    exit_code: int | None = 0
    last: float = 0.0
    leaves: Mapping[str, bytes] = field(default_factory=dict)


@dataclass
class Work:
    """One run in a guest, on its disk. Times are of the host's clock; `halted_at` is the end of the boot in which it
    began."""

    script: bytes
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    scripted: Scripted
    begun_at: float | None = None
    halted_at: float | None = None

    def look(self, now: float, offset: int, at_most: int) -> Look:
        """How far it is."""
        if self.begun_at is None:
            return Look(begun=False)
        left = (now if self.halted_at is None else self.halted_at) - self.begun_at
        output = b""
        for delay, piece in self.scripted.output:
            left -= delay
            if left < 0:
                break
            output += piece
        left -= self.scripted.last
        ended = left >= 0 and self.scripted.exit_code is not None
        return Look(
            begun=True,
            data=output[offset : offset + at_most],
            size=len(output),
            exit_code=self.scripted.exit_code if ended else None,
            alive=ended or self.halted_at is None,
        )


class Leavings:
    """The files of one guest in memory, as `agent.guest.artifacts` reads files."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {os.fsencode(path): content for path, content in files.items()}

    def stat(self, path: bytes) -> Attributes:
        content = self._files.get(path)
        if content is not None:
            return Attributes(len(content), S_IFREG | 0o644)
        if any(one.startswith(path.rstrip(b"/") + b"/") for one in self._files):
            return Attributes(0, S_IFDIR | 0o755)
        raise NoSuchFile("no such file")

    def entries(self, path: bytes) -> Generator[tuple[bytes, Attributes], None, None]:
        self.stat(path)
        below = path.rstrip(b"/") + b"/"
        inside = [one.removeprefix(below) for one in self._files if one.startswith(below)]
        for name in {one.split(b"/")[0] for one in inside}:
            yield name, self.stat(below + name)

    def open(self, path: bytes, flags: int) -> bytes:
        self.stat(path)
        return path

    def size(self, handle: bytes) -> int:
        return len(self._files[handle])

    def read(self, handle: bytes, offset: int, most: int) -> bytes:
        return self._files[handle][offset : offset + most]

    def shut(self, handle: bytes) -> None:
        """There is nothing to let go of."""
