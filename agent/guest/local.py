"""Sources of images that are files of this host: where they lie, what they look like, and their bytes.

A file counts by the real path that it was allowed by: one that is reached through a symbolic link is refused. Whatever
a file system has to answer is asked in a thread and waited for with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from agent.errors import ImageUnavailable
from agent.worker import Worker

CHUNK = 1 << 20
SILENCE_TIMEOUT = 60.0
"""Seconds without an answer after which a server or a file system is given up."""

T = TypeVar("T")

Fingerprint = tuple[int, int, int]
"""Inode, size and time of the last modification in ns: what changes with the content of a file, found without reading
it. No device number, which is another after every mount of a network file system."""


def local_path(source: str) -> str | None:
    """The path of a `file://` source, None for any other."""
    parts = urlsplit(source)
    return os.fsdecode(unquote_to_bytes(parts.path)) if parts.scheme == "file" else None


def fingerprint(path: str) -> Fingerprint | None:
    """That of the file at `path`, None where there is none. May wait for ever."""
    try:
        return _fingerprint_of(os.stat(path))
    except (OSError, ValueError):
        return None


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[LocalFile]:
    """The file at `path`. Raises ImageUnavailable."""
    file = LocalFile(path)
    try:
        await file.open()
        yield file
    finally:
        file.leave()


class LocalFile:
    """A file that is being read. `size` in bytes and `fingerprint` are those it had when it was opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._worker = Worker("reader of an image")
        self._descriptor: int | None = None
        self._got = 0
        self.size = 0
        self.fingerprint: Fingerprint = (0, 0, 0)

    async def open(self) -> None:
        """Before anything else. Raises ImageUnavailable."""
        status = await self._ask(self._open)
        self.size, self.fingerprint = status.st_size, _fingerprint_of(status)

    async def read(self) -> bytes:
        """The next bytes, CHUNK at most; none at the end. Raises ImageUnavailable, also when the file is not the same
        at the end as it was at the beginning."""
        piece = await self._ask(lambda: os.read(self._file, CHUNK))
        self._got += len(piece)
        # A file that grows as fast as it is read has no end.
        over = self._got > self.size
        if over or (
            not piece and _fingerprint_of(await self._ask(self._status)) != self.fingerprint
        ):
            raise ImageUnavailable(
                f"reading the image {self._path}: it changed while it was read",
                hint="put a file there that is whole: write it beside and rename it",
            )
        return piece

    def leave(self) -> None:
        """Close it when the thread is done with it; nothing waits for that."""
        self._worker.leave(self._close)

    @property
    def _file(self) -> int:
        assert self._descriptor is not None  # noqa: S101 - it was opened
        return self._descriptor

    async def _ask(self, job: Callable[[], T]) -> T:
        tried = f"reading the image {self._path}"
        try:
            async with asyncio.timeout(SILENCE_TIMEOUT):
                return await self._worker.submit(job)
        except TimeoutError as error:
            raise ImageUnavailable(
                f"{tried}: its file system has not answered for {SILENCE_TIMEOUT:.0f} s"
            ) from error
        except OSError as error:
            raise ImageUnavailable(f"{tried}: {error.strerror}") from error

    # In the thread

    def _open(self) -> os.stat_result:
        # Opened as a place only, so that no FIFO waits and no device acts before it is known what lies there.
        place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            through = f"/proc/self/fd/{place}"
            if os.readlink(through) != self._path:
                raise ImageUnavailable(
                    f"reading the image {self._path}: a symbolic link was put there since its place was checked"
                )
            status = os.fstat(place)
            if not stat.S_ISREG(status.st_mode):
                raise ImageUnavailable(f"reading the image {self._path}: it is no regular file")
            self._descriptor = os.open(through, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
        return self._status()

    def _status(self) -> os.stat_result:
        return os.fstat(self._file)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _fingerprint_of(status: os.stat_result) -> Fingerprint:
    return (status.st_ino, status.st_size, status.st_mtime_ns)
