"""Runs a program to its end, bounded in time and in what is kept of what it prints: a server may speak without end.

It knows nothing of git.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

MOST = 32 << 20
"""Bytes of standard output that a program may print."""
_SAID = 1 << 15
"""Bytes that are kept of the beginning of its standard error, and as many of its end."""
_PIECE = 1 << 16


class TooLong(Exception):
    """It did not end in time, and was ended with all that it had started."""


class TooMuch(Exception):
    """It printed more than it may, and was ended with all that it had started."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended by itself. `said`: its standard error, or the beginning and the end of a long one."""

    status: int
    printed: bytes
    said: bytes


def run(
    command: Sequence[str], environment: Mapping[str, str], stdin: bytes, seconds: float
) -> Ended:
    """Run it in a session of its own, with these bytes to read. Raises TooLong, TooMuch, and OSError where it cannot be
    started. A file that grows too long is told to it by write(2), not by a signal."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
        restore_signals=False,  # Python ignores SIGXFSZ, and whatever it starts does then
    )
    try:
        printed, said = _talk(process, stdin, time.monotonic() + seconds)
    except BaseException:
        _end(process)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(cast(IO[bytes], pipe))
    return Ended(process.returncode, printed, said)


def _talk(process: subprocess.Popen[bytes], stdin: bytes, end: float) -> tuple[bytes, bytes]:
    printed, said = bytearray(), bytearray()
    left = memoryview(stdin)
    asked = cast(IO[bytes], process.stdin)
    with selectors.DefaultSelector() as pipes:
        pipes.register(cast(IO[bytes], process.stdout), selectors.EVENT_READ, printed)
        pipes.register(cast(IO[bytes], process.stderr), selectors.EVENT_READ, said)
        pipes.register(asked, selectors.EVENT_WRITE)
        while pipes.get_map():
            ready = pipes.select(_left(end))
            for key, _ in ready:
                if key.fileobj is asked:
                    left = left[_written(key.fd, left) :]
                    if not left:
                        pipes.unregister(asked)
                        _close(asked)
                elif piece := os.read(key.fd, _PIECE):
                    key.data.extend(piece)
                else:
                    pipes.unregister(key.fileobj)
            if len(printed) > MOST:
                raise TooMuch
            if len(said) > 2 * _SAID:
                said[_SAID:-_SAID] = b"\n"
    try:
        process.wait(_left(end))
    except subprocess.TimeoutExpired as error:
        raise TooLong from error
    return bytes(printed), bytes(said)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TooLong
    return left


def _written(descriptor: int, data: memoryview) -> int:
    """How much of it was taken: all of it by a program that reads no more."""
    try:
        # Never more than a pipe that is ready is sure to take without blocking: pipe(7).
        return os.write(descriptor, data[: select.PIPE_BUF])
    except BrokenPipeError:
        return len(data)


def _close(pipe: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started: they are one session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
