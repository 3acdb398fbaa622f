"""Puts small files on disk whole or not at all, readable by nobody else from their first byte on.

A crash at any line leaves the old file, the new one, or one beside it whose name begins with a dot. It refuses to
follow a symbolic link at the place that it writes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write(path: Path, content: bytes, *, replace: bool, mode: int = 0o600) -> bool:
    """Put `content` at `path` and on disk; `replace` False: only where nothing lies yet. Whether it was put there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(
        beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        with open(descriptor, "wb", buffering=0) as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(descriptor)
        if replace:
            beside.rename(path)
        else:
            # A link fails where something lies; a rename would put it away.
            path.hardlink_to(beside)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()
    sync_directory(path.parent)
    return True


UNFINISHED = ".part"
"""What the name of a file or directory ends in that is filled over some time; it begins with a dot."""
_ON_ITS_WAY = re.compile(r"\..+(\.[0-9a-f]{8}|\.part)", re.DOTALL)


def clear_up(path: Path) -> None:
    """Remove from the directory `path`, if it is there, what writes left that a crash cut off. Only for a process that
    alone writes there."""
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if _ON_ITS_WAY.fullmatch(name):
            try:
                (path / name).unlink()
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                if name.endswith(UNFINISHED):
                    shutil.rmtree(path / name, ignore_errors=True)


def directory(path: Path) -> None:
    """Make the directory `path`, 0700, and on disk; one that is there stays."""
    try:
        path.mkdir(0o700)
    except FileExistsError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
