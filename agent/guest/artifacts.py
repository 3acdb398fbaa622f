"""Copies the files that a run leaves in its guest into a folder of the host, within limits, and tells what it left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from agent.guest.folder import PARTIAL, Folder
from agent.guest.globs import Search, Tree
from agent.guest.sftp import READ, Broken, Refused
from state.spec.units import format_size
from state.spec.words import printable
from state.work import Artifact, Collected, Limits

_PIECE = 1 << 20
_GROWTH = 1 << 20
"""Bytes that a file may grow by while it is read; those below /proc say that they are empty."""
_NOTES = 50


class Files(Tree, Protocol):
    """Files of a guest, as `Sftp` reads them."""

    def open(self, path: bytes, flags: int) -> bytes: ...
    def size(self, handle: bytes) -> int: ...
    def read(self, handle: bytes, offset: int, most: int) -> bytes: ...
    def shut(self, handle: bytes) -> None: ...


def collect(guest: Files, patterns: Sequence[str], into: Path, limits: Limits) -> Collected:
    """Copy what the patterns match into the folder `into`. A connection that breaks or falls silent ends it with what
    has arrived by then. Raises RetryLater when it cannot be written."""
    with closing(Folder(into)) as folder:
        taking = _Taking(guest, folder, limits)
        search = Search(guest, limits)
        try:
            for pattern in patterns:
                for path in search.files(pattern):
                    taking.take(path)
                    if taking.over:
                        break
        except Broken as error:
            taking.broke_off(error)
        return Collected(tuple(taking.artifacts), (*search.notes, *taking.notes()))


class _Taking:
    """Takes one file after the other until a limit is reached."""

    def __init__(self, guest: Files, folder: Folder, limits: Limits) -> None:
        self._guest, self._folder, self._limits = guest, folder, limits
        self._until = time.monotonic() + limits.seconds
        self._left = limits.total
        self._said: list[str] = []
        self._unsaid = 0
        self._crowded = 0
        self._at = ""
        self.over = False
        self.artifacts: list[Artifact] = []

    def take(self, path: bytes) -> None:
        if len(self.artifacts) >= self._limits.files:
            self._crowded += 1
            return
        if time.monotonic() > self._until:
            self.over = True
            self._say(f"no more was copied after {self._limits.seconds:g} seconds")
            return
        self._at = shown = path.decode("utf-8", "replace")
        try:
            handle = self._guest.open(path, READ)
            try:
                self._copy(path, shown, handle)
            finally:
                self._guest.shut(handle)
        except Refused as error:
            self._say(f"{shown} was left out: {error}")

    def broke_off(self, error: Broken) -> None:
        """Nothing more can be had of the guest."""
        at = f" at {self._at}" if self._at else ""
        self._say(f"collecting broke off{at}, and what comes after it is missing: {error}")

    def _copy(self, path: bytes, shown: str, handle: bytes) -> None:
        size = self._guest.size(handle)
        if size > self._left:
            total = format_size(self._limits.total)
            self._say(f"{shown} was left out: it has {size} bytes, and at most {total} are kept")
            return
        most = min(self._left, size + _GROWTH)
        why = ""
        with self._folder.receive(path) as file:
            while not why:
                room = most - file.size
                piece = self._guest.read(handle, file.size, min(_PIECE, room + 1))
                if not piece:
                    break
                file.write(piece[:room])
                if len(piece) > room:
                    why = "it grows and grows"
                elif time.monotonic() > self._until:
                    why = "it takes too long"
            file.partial = bool(why)
        self._left -= file.size
        self.artifacts.append(self._folder.artifact(path, file))
        if why:
            self._say(
                f"{shown} was cut off at {file.size} bytes ({why}); its name ends in {PARTIAL}"
            )

    def _say(self, note: str) -> None:
        if len(self._said) < _NOTES:
            self._said.append(printable(note))
        else:
            self._unsaid += 1

    def notes(self) -> list[str]:
        found = list(self._said)
        if self._unsaid:
            found.append(f"{self._unsaid} more were left out or cut off")
        if self._crowded:
            most = self._limits.files
            found.append(f"{self._crowded} files were left out: at most {most} are kept")
        return found
