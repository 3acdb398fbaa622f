"""Files that grow while they are shown, each to its end and harmless for a terminal."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from agent.cli.text import Harmless
from agent.errors import BadInput

_CHUNK = 1 << 16


def beginning(file: BinaryIO, lines: int | None) -> int:
    """Where the last so many lines of a file begin; its beginning where it has no more, or where None says all. A line
    that has no end yet counts."""
    if lines is None:
        return 0
    at = end = file.seek(0, os.SEEK_END)
    while at > 0:
        start = max(0, at - _CHUNK)
        file.seek(start)
        piece = file.read(at - start)
        # The last byte ends a line, and begins none.
        found = len(piece) - 1 if at == end else len(piece)
        while (found := piece.rfind(b"\n", 0, found)) >= 0:
            lines -= 1
            if lines <= 0:
                return start + found + 1
        at = start
    return 0


def opened(log: Path) -> BinaryIO:
    """The log, if it is a file. Raises BadInput where something else lies there, and FileNotFoundError."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        descriptor = -1
    if descriptor >= 0 and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    if descriptor >= 0:
        os.close(descriptor)
    raise BadInput(
        f"reading {log}: it is no file, and not what holdfast put there", hint="remove it"
    )


class Growing:
    """One log of a run, from its last so many `lines` on. It may be cut and written anew with the same bytes: what was
    shown is not shown again."""

    def __init__(self, log: Path, lines: int | None = None) -> None:
        self._log = log
        self._lines = lines
        self._shown = 0
        self._harmless = Harmless()
        self.found = False

    def go_on(self) -> None:
        """Print what is new."""
        try:
            file = opened(self._log)
        except FileNotFoundError:
            return
        with file:
            if not self.found:
                self._shown = beginning(file, self._lines)
            self.found = True
            # Beyond the end of one that was cut there is nothing to read yet.
            file.seek(self._shown)
            while piece := file.read(_CHUNK):
                self._shown += len(piece)
                sys.stdout.write(self._harmless.text(piece))
        sys.stdout.flush()

    def close(self) -> None:
        """Print what was kept back because more could have come."""
        sys.stdout.write(self._harmless.end())
        sys.stdout.flush()


class Replaced:
    """One log of a VM after another, the first from its last so many `lines` on, each to its end, although it is put
    aside or removed meanwhile."""

    def __init__(self, lines: int | None = None) -> None:
        self._lines = lines
        self._file: BinaryIO | None = None
        self._harmless = Harmless()

    def go_on(self, log: Path) -> bool:
        """Print what is new in the file that was read last and, where another one lies at `log` by now, all of that.
        Whether there was any file to read."""
        self._rest()
        try:
            newest = log.open("rb")
        except FileNotFoundError:
            return self._file is not None
        if self._file and os.path.sameopenfile(self._file.fileno(), newest.fileno()):
            newest.close()
            return True
        self.close()
        self._file = newest
        newest.seek(beginning(newest, self._lines))
        self._lines = None
        self._rest()
        return True

    def _rest(self) -> None:
        """What lies behind what was printed; a file that was cut short is read from its start."""
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        while piece := self._file.read(_CHUNK):
            sys.stdout.write(self._harmless.text(piece))
        sys.stdout.flush()

    def close(self) -> None:
        """The end of one file: what could have gone on there does not."""
        if self._file is not None:
            self._file.close()
            sys.stdout.write(self._harmless.end())
            sys.stdout.flush()
            self._file = None
