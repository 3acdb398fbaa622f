"""A log file and a record beside it that says how much of it is sure, and what it was made from.

First the log grows, then the record is written, in place and in one write, which a kill of the process cannot part. So
a kill leaves at most a longer log than is recorded: what is too much is cut off, and comes again from where it came.
Nothing is forced to the disk: what a power cut takes from the end of the log is missing, and nothing else.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from agent import paths
from agent.errors import RetryLater
from agent.jobs.masking import Seam

_ROOM = 512
LARGEST = (1 << 63) - 1
"""No number of a record is larger, so that each record fits into its room."""
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


MARK = "[holdfast] "
"""What lines of holdfast's own begin with."""
_REMOVED = f"{MARK}this log was removed; what it said before is lost\n".encode()


class Stage(StrEnum):
    """What comes next in the log of an attempt."""

    CONSOLE = "console"
    OUTPUT = "output"
    TAIL = "tail"
    """The end of an output whose middle was dropped."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the log is, whose length is `length`, `line_over` if it does not end within a line.

    `offset` is that of the first byte of the present source (the console, or the output) that is not in it, and `seam`
    tells what that byte follows; `skip` bytes from there are to be looked at and not written. `since` is where the
    attempt begins in the log. `full`: there is no room for more of the source. `dropped` counts the bytes of the
    console that had no room. `final` is the size of the output, once it is known."""

    attempt: int = 0
    stage: Stage = Stage.ENDED
    length: int = 0
    offset: int = 0
    since: int = 0
    line_over: bool = True
    full: bool = False
    dropped: int = 0
    skip: int = 0
    final: int | None = None
    seam: Seam = field(default_factory=Seam)


class RecordedLog:
    """The two files, made where they are missing, for nobody else to read, and cut to what is recorded. A log that
    somebody removes while it is written is made anew, and says so. Every method raises RetryLater where the disk cannot
    be written, and leaves things as they were."""

    def __init__(self, log: Path) -> None:
        self._path = log
        try:
            removed = not log.parent.exists()
            self._log, self._record = self._opened()
            self.progress = self._recorded()
            os.ftruncate(self._log, self.progress.length)
            # A log that grows without a record would be taken for one whose record was lost.
            os.pwrite(self._record, _encoded(self.progress), 0)
        except OSError as error:
            raise self._unwritten(error) from error
        if removed:
            self.append(_REMOVED, self.progress)

    def close(self) -> None:
        os.close(self._log)
        os.close(self._record)

    def append(self, text: bytes, progress: Progress) -> None:
        """Write `text`, and that the log is then where `progress` says; its `length` and `line_over` are filled in."""
        try:
            if not (_has_a_name(self._log) and _has_a_name(self._record)):
                text, progress = self._anew(text, progress)
        except OSError as error:
            raise self._unwritten(error) from error
        length = self.progress.length
        over = text.endswith(b"\n") if text else self.progress.line_over
        after = replace(progress, length=length + len(text), line_over=over)
        try:
            at, left = length, memoryview(text)
            while left:
                written = os.pwrite(self._log, left, at)
                at, left = at + written, left[written:]
            os.pwrite(self._record, _encoded(after), 0)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._log, length)
            raise self._unwritten(error) from error
        self.progress = after

    def _opened(self) -> tuple[int, int]:
        self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
        log = os.open(self._path, _OPEN, 0o600)
        try:
            return log, os.open(paths.progress(self._path), _OPEN, 0o600)
        except BaseException:
            os.close(log)
            raise

    def _anew(self, text: bytes, progress: Progress) -> tuple[bytes, Progress]:
        """Put files in the place of those that somebody removed; what is then to be written, and where the log is."""
        log, record = self._opened()
        kept = os.path.sameopenfile(log, self._log)
        self.close()
        self._log, self._record = log, record
        if kept:
            return text, progress
        os.ftruncate(log, 0)
        self.progress = replace(self.progress, length=0, line_over=True)
        return _REMOVED + text, replace(progress, since=0, line_over=True)

    def _recorded(self) -> Progress:
        found = _decoded(os.pread(self._record, _ROOM, 0))
        size = os.fstat(self._log).st_size
        if found is not None and found.length <= size:
            return found
        # A power cut took the record, or the end of the log: what is there is kept.
        last = os.pread(self._log, 1, size - 1) if size else b"\n"
        return replace(found or Progress(), length=size, line_over=last == b"\n")

    def _unwritten(self, error: OSError) -> RetryLater:
        return RetryLater(
            f"writing {self._path}: {error.strerror or error}", hint="make room on this host's disk"
        )


def _has_a_name(descriptor: int) -> bool:
    return os.fstat(descriptor).st_nlink > 0


def _encoded(progress: Progress) -> bytes:
    text = json.dumps(asdict(progress), separators=(",", ":")).encode()
    return (b"%08x %s\n" % (zlib.crc32(text), text)).ljust(_ROOM)


def _decoded(record: bytes) -> Progress | None:
    """None for one that was never written whole."""
    digest, _, text = record.rstrip().partition(b" ")
    if digest != b"%08x" % zlib.crc32(text):
        return None
    fields = json.loads(text)
    return Progress(**fields | {"stage": Stage(fields["stage"]), "seam": Seam(**fields["seam"])})
