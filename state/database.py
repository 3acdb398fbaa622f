"""The file that the ledger lies in: read by nobody else, still the same one, and what its troubles mean."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from state.records import LedgerUnreadable

OPENING = 5.0
"""Seconds that opening the database waits while another program, such as a person's `sqlite3`, holds it."""
BUSY = 1.0
"""Seconds that a write waits likewise. The whole process waits with it, so that an agent asks beforehand
(`Ledger.free`)."""
PATIENCE = 60.0
"""Seconds after which a program that holds the database is not waited for any more."""
TRY = 0.02
"""Seconds from one try to the next meanwhile."""


def private(path: Path) -> tuple[int, int] | None:
    """Make the file if it is not there, and see to it that nobody else can read it; its identity. Raises
    LedgerUnreadable."""
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(made, 0o600)
        finally:
            os.close(made)
    except OSError as error:
        raise LedgerUnreadable(f"the state database cannot be opened: {error.strerror}") from error
    return identity(path)


def identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_OF_THE_DISK = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
})  # fmt: skip


def of_the_disk(error: BaseException) -> bool:
    """Whether SQLite says that the file cannot be written just now or is damaged; its other errors are bugs."""
    return _code(error) in _OF_THE_DISK


def damaged(error: BaseException) -> bool:
    """Whether SQLite says that what lies in the file is no sound database."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


SET_ASIDE_KEPT = 3
"""Damaged databases that are kept for a look."""


def set_aside(path: Path) -> Path:
    """Give a damaged database another name, and return that; of many that were set aside the last few stay. Raises
    OSError."""
    before = sorted(
        (int(number), one)
        for one in path.parent.glob(f"{path.name}.damaged-*")
        if (number := one.name.rpartition("-")[2]).isdigit()
    )
    aside = path.with_name(f"{path.name}.damaged-{before[-1][0] + 1 if before else 1}")
    # The log first: beside a new database it would be taken for that one's.
    for part in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + part).rename(aside.with_name(aside.name + part))
    for _, old in before[: max(0, len(before) + 1 - SET_ASIDE_KEPT)]:
        for part in ("-wal", "-shm", ""):
            old.with_name(old.name + part).unlink(missing_ok=True)
    return aside


def held(error: BaseException) -> bool:
    """Whether SQLite says that another program holds the database: neither the disk nor this process is to blame."""
    return _code(error) == sqlite3.SQLITE_BUSY


def _code(error: BaseException) -> int:
    # What stands above the low byte says where it happened (https://sqlite.org/rescode.html).
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
