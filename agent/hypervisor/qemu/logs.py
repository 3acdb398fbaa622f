"""Keeps the logs of one machine short, and makes what they say fit to be shown."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from agent import durable
from agent.paths import older
from state.spec.words import printable


def begin(log: Path) -> None:
    """Put what an earlier process wrote to `log` aside, so that it holds the words of one process."""
    with suppress(FileNotFoundError):
        if log.lstat().st_size:
            log.rename(older(log))


def bound(log: Path, limit: int) -> bool:
    """Cut `log` where it is longer than `limit` bytes, keeping its last half beside it. Whether it was cut.

    Its writer appends, and so begins anew at the front; what it writes between the copy and the cut is lost.
    """
    try:
        if os.lstat(log).st_size <= limit:
            return False
        descriptor = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if size <= limit:
            return False
        with suppress(OSError):  # a full disk is a reason to cut, not one to keep
            end = os.pread(descriptor, limit // 2, size - limit // 2)
            durable.write(older(log), end, replace=True)
        os.ftruncate(descriptor, 0)
        return True
    finally:
        os.close(descriptor)


def last_words(log: Path, limit: int = 300) -> str:
    """What `log` says, for a sentence: its first and last `limit` bytes, in one line, control characters escaped;
    nothing where it cannot be read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            words = os.pread(descriptor, 2 * limit, 0)
            if size > 2 * limit:
                words = words[:limit] + b" [...] " + os.pread(descriptor, limit, size - limit)
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    return printable(" ".join(words.decode(errors="backslashreplace").split()))
