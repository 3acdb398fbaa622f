"""Small disks for tests: file systems in memory, with a size of their own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LET_GO = 20.0
"""Seconds."""


@contextmanager
def mounted(path: Path, size: str) -> Iterator[None]:
    """A file system of that size there; the test is skipped where none can be mounted."""
    try:
        mount(path, f"size={size}")
    except subprocess.CalledProcessError:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        unmount(path)


def unmount(path: Path) -> None:
    """Let go of it, as soon as nobody has a file open there any more: a thread may still be about to close one."""
    end = time.monotonic() + LET_GO
    while subprocess.run(["umount", path], check=False, capture_output=True).returncode:
        assert time.monotonic() < end, f"{path} is in use, {LET_GO:g} s after its test"


def mount(path: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    subprocess.run(command, check=True, capture_output=True)


class Lowest:
    """The least that was free on a disk while the block ran, in bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.free = self._now()

    def __enter__(self) -> Lowest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.free = min(self.free, self._now())

    def _now(self) -> int:
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize
