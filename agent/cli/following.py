"""Files that grow while they are shown, each to its end and harmless for a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from agent.cli.text import Harmless

_CHUNK = 1 << 16


class Growing:
    """One log of a run. It may be cut and written anew with the same bytes: what was shown is not shown again."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._shown = 0
        self._harmless = Harmless()
        self.found = False

    def go_on(self) -> None:
        """Print what is new."""
        try:
            file = self._log.open("rb")
        except FileNotFoundError:
            return
        with file:
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
    """One log of a VM after another, each to its end, although it is put aside or removed meanwhile."""

    def __init__(self) -> None:
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
