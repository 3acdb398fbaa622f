"""Standard output and standard error, so that their own failures are told from every other error.

What cannot be written to standard output ends the command as OutputLost. What cannot be written to standard error is
lost: there is nobody left to tell, and an agent whose log is full goes on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_PIPE = 141
"""What a shell says of a program that SIGPIPE ended: its reader had enough."""


class OutputLost(Exception):
    """Standard output takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"writing to standard output: {error.strerror}")
        self.unread = error.errno == errno.EPIPE
        """Whether its reader went away."""


def write_all(descriptor: int, data: ReadableBuffer) -> None:
    """Write all of it, however little the other side takes at a time. Raises OutputLost."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError as error:
            raise OutputLost(error) from error


class _Output(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        write_all(self.fileno(), data)
        return memoryview(data).nbytes


class _Errors(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        with suppress(OutputLost):
            write_all(self.fileno(), data)
        return memoryview(data).nbytes


def install() -> None:
    """Take over both for this process. One that was closed goes nowhere, as does what a file opened later would
    otherwise be given under its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, like: TextIO | None) -> io.TextIOWrapper:
    # A character that the terminal does not know is no reason to say nothing.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding if like else "utf-8",
        errors="backslashreplace",
        line_buffering=like is sys.stderr or raw.isatty(),
    )


def give_up() -> None:
    """Let go of what standard output did not take, or Python would try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
