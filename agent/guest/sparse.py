"""A sparse file that is filled from its beginning to its end, by a thread that follows whoever gives it the bytes.

So the disk is written to, and synced now and then, while the next bytes are fetched and unpacked: what is left to do
when the last of them has come is little.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator

BATCH = 1 << 20
"""Bytes that are handed to the thread at once, or as many as came in one piece."""
DEPTH = 8
"""Batches that wait for it at most."""
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
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append. Blocks of zeros become holes."""
        runs = list(_runs(data))
        spent = sum(end - start for start, end in runs)
        self._spend(spent)
        for start, end in runs:
            _write_at(self._descriptor, memoryview(data)[start:end], self.size + start)
        self.size += len(data)
        self._unsynced += spent
        if self._unsynced > SYNC_EVERY:
            self._unsynced = 0
            os.fdatasync(self._descriptor)

    def finish(self) -> None:
        """Set the length, and make it durable."""
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Nothing more comes."""


class Behind:
    """The same, in a thread of its own: an error is raised by the next call after it. `size` counts what was given."""

    def __init__(self, file: SparseFile) -> None:
        self._file = file
        self._batch: list[bytes] = []
        self._gathered = 0
        self._batches: queue.Queue[list[bytes] | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="disk of an image", daemon=True)
        self._thread.start()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append. Raises what went wrong with what was given before."""
        self._batch.append(data)
        self._gathered += len(data)
        self.size += len(data)
        if self._gathered >= BATCH:
            self._hand_over()

    def finish(self) -> None:
        """Wait for all of it, set the length, and make it durable."""
        self._hand_over()
        self.close()
        self._raise()
        self._file.finish()

    def close(self) -> None:
        """Wait until the thread is done with the file; what was not handed over is dropped."""
        if self._thread.is_alive():
            self._batches.put(None)
            self._thread.join()

    def _hand_over(self) -> None:
        self._raise()
        self._batches.put(self._batch)
        self._batch, self._gathered = [], 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                for piece in batch if self._error is None else ():
                    self._file.write(piece)
            except BaseException as error:  # noqa: BLE001 - it is the giver's
                self._error = error


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the bytes between holes begin and end."""
    start = None
    for at in range(0, len(data), _HOLE):
        hole = _is_hole(data, at)
        if hole and start is not None:
            yield start, at
            start = None
        elif not hole and start is None:
            start = at
    if start is not None:
        yield start, len(data)


def _is_hole(data: bytes, at: int) -> bool:
    """Whether the block that begins there is zero."""
    if data[at]:
        return False  # as of nearly all that are not
    # Comparing bytes is one memcmp; comparing memoryviews is several times slower.
    piece = data[at : at + _HOLE]
    return piece == (_ZEROS if len(piece) == _HOLE else bytes(len(piece)))


def _write_at(descriptor: int, view: memoryview, at: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
