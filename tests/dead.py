"""A file system that does not answer, as when its server died: FUSE with nobody at the other end. For root."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH = 2
_LONGEST = 60.0
"""Seconds after which it answers all the same."""


@contextmanager
def dead(directory: Path) -> Iterator[None]:
    """The directory does not answer while the block lasts; after it, whoever waited gets an error. Skips the test where
    this kernel or user cannot mount."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/fuse cannot be opened: {error.strerror}")
    options = f"fd={server},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    where = os.fsencode(directory)
    if _libc.mount(b"dead", where, b"fuse", _MS_NOSUID | _MS_NODEV, options.encode()) != 0:
        os.close(server)
        pytest.skip(f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
    ended = threading.Event()

    def end() -> None:
        if ended.is_set():
            return
        ended.set()
        # Whoever waits is told that the connection has ended.
        os.close(server)
        _libc.umount2(where, _MNT_DETACH)

    # A test that waits itself cannot be interrupted.
    watchdog = threading.Timer(_LONGEST, end)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()
        end()
