"""A repository of our own, in which one git works at a time: also when the agent that began it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import RetryLater
from agent.source.git.command import Git, NoRoom
from agent.source.git.room import Room

_MOMENT, _TRY = 1.0, 0.01
"""Seconds that a lock is waited for, and from one try to the next."""
_LEFT_BEHIND = (
    "**/*.lock",
    "gc.pid*",
    "packed-refs.new",
    "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
    "objects/info/**/tmp_*",
    "objects/**/tmp_obj_*",
)
"""What a killed git leaves of files that it was writing; some of them stop the next one, others take up room."""


@contextmanager
def alone(lock: Path) -> Iterator[Path]:
    """Hold `lock`, and know that no git of an agent before is left; the file that each git is to lock meanwhile. Raises
    RetryLater while one works, and OSError where the disk fails."""
    busy = lock.with_name(f"{lock.name}.git")
    with _locked(lock):
        with _locked(busy):
            pass
        yield busy


@contextmanager
def at_work(repository: Path, busy: Path) -> Iterator[Git]:
    """git on the repository, which is made where there is none, and cleared of what a killed one left. For whoever is
    `alone`. Raises NoRoom before anything is begun, and OSError where the disk fails."""
    _clear_up(repository)
    room = Room.of(busy.parent)
    if room.is_none:
        raise NoRoom(room, remote=False)
    git = Git(repository, busy=busy)
    if not is_repository(repository):
        shutil.rmtree(repository, ignore_errors=True)
        git.initialise()
    try:
        yield git
    except BaseException:
        # A fetch that filled the disk leaves it full otherwise.
        _clear_up(repository)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises RetryLater where another process has locked it, and not for a moment only: whatever another thread of ours
    starts has all that is open here, from its fork to its exec."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waiting, end = threading.Event(), time.monotonic() + _MOMENT
        while not _taken(held):
            if time.monotonic() > end:
                raise RetryLater(f"a git that was begun before still works in {path.parent}")
            waiting.wait(_TRY)
        yield
    finally:
        os.close(held)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_up(repository: Path) -> None:
    for pattern in _LEFT_BEHIND:
        for left in repository.glob(pattern):
            with suppress(FileNotFoundError):
                left.unlink()


def is_repository(path: Path) -> bool:
    """Whether there is a repository, as far as that can be told without git."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
