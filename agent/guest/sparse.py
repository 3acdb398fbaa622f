"""A sparse file that is filled from its beginning to its end, and put on disk meanwhile.

The disk has its own thread: it writes what the system holds for it while the next bytes are fetched and unpacked, so
that little is left to do when the last of them has come, and little where a fetch is given up.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator

SYNC_EVERY = 64 << 20
"""Bytes after which what was written is put on disk."""
_HOLE = 1 << 16
_ZEROS = bytes(_HOLE)


class SparseFile:
    """Writes to a file descriptor, leaving holes for zeros. `spend` is told before each piece how many of its bytes go
    to disk, and may raise."""

    def __init__(self, descriptor: int, spend: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._spend = spend
        self._unsynced = 0
        self._disk = Beside(lambda: os.fdatasync(descriptor))
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append. Blocks of zeros become holes. Raises what the disk does, also of what was written before."""
        view = memoryview(data)
        runs = list(_runs(view, self.size))
        spent = sum(end - start for start, end in runs)
        self._spend(spent)
        for start, end in runs:
            _write_at(self._descriptor, view[start:end], self.size + start)
        self.size += len(view)
        self._unsynced += spent
        if self._unsynced >= SYNC_EVERY:
            self._unsynced = 0
            self._disk.ask()

    def finish(self) -> None:
        """Set the length, and make it durable."""
        self._disk.leave()
        self._disk.check()
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Wait until nothing uses the descriptor any more."""
        self._disk.leave()


class Beside:
    """Does one job in a thread of its own, each time that it is asked to."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job = job
        self._asked: queue.Queue[bool] = queue.Queue(1)
        self._error: BaseException | None = None
        self._leaving = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Have it done once more. Waits while it is under way and was asked for since. Raises what it raised before."""
        self.check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="disk of an image", daemon=True)
            self._thread.start()
        self._asked.put(True)

    def check(self) -> None:
        """Raises what the job raised: once is enough, a disk may not say it again."""
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Wait for what is under way; what is not is dropped. Nothing is asked for after it."""
        if self._thread is not None:
            self._leaving = True
            self._asked.put(False)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while self._asked.get():
            try:
                if self._error is None and not self._leaving:
                    self._job()
            except BaseException as error:  # noqa: BLE001 - it is the asker's
                self._error = error


def _runs(view: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where the bytes between holes begin and end. `offset`: where the first of them is in the file, whose blocks are
    looked at, however they were cut."""
    start = None
    at = 0
    while at < len(view):
        end = min(at + _HOLE - (offset + at) % _HOLE, len(view))
        hole = _is_hole(view, at, end)
        if hole and start is not None:
            yield start, at
            start = None
        elif not hole and start is None:
            start = at
        at = end
    if start is not None:
        yield start, at


def _is_hole(view: memoryview, at: int, end: int) -> bool:
    """Whether the bytes there, a block at most, are zero."""
    # The first byte tells it of nearly all that are not. To be the beginning of something is one memcmp; comparing
    # memoryviews is several times slower.
    return not view[at] and _ZEROS.startswith(view[at:end])


def _write_at(descriptor: int, view: memoryview, at: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
