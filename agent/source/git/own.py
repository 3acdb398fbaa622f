"""A repository of our own, in which one git works at a time: also when the agent that began it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import RetryLater
from agent.source.git.command import Git

_LEFT_BEHIND = ("*.lock", "refs/**/*.lock", "gc.pid*", "objects/pack/tmp_*", "objects/**/tmp_obj_*")


@contextmanager
def at_work(repository: Path, lock: Path) -> Iterator[Git]:
    """git on the repository, which is made where there is none. `lock` is held meanwhile, and a file beside it by every
    process of git; what a killed one left is cleared away. Raises RetryLater while one of an agent before works, and
    OSError where the disk fails."""
    busy = lock.with_name(f"{lock.name}.git")
    with _locked(lock):
        with _locked(busy):
            pass  # no git of an agent before is left
        git = Git(repository, busy=busy)
        if not is_repository(repository):
            shutil.rmtree(repository, ignore_errors=True)
            git.initialise()
        _clear_up(repository)
        try:
            yield git
        except BaseException:
            # A fetch that filled the disk leaves it full otherwise.
            _clear_up(repository)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises RetryLater where another process has locked it."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryLater(f"a git that was begun before still works in {path.parent}") from None
        yield
    finally:
        os.close(held)


def _clear_up(repository: Path) -> None:
    for pattern in _LEFT_BEHIND:
        for left in repository.glob(pattern):
            with suppress(FileNotFoundError):
                left.unlink()


def is_repository(path: Path) -> bool:
    """Whether there is a repository, as far as git would say so."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
