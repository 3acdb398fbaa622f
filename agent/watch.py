"""Notifies the loop of what changes in a directory, whatever becomes of that directory and of what watches it.

watchfiles does the watching, in a thread that nothing waits for: it walks a tree before it watches it, which takes for
ever on a file system that does not answer; and where the kernel fails it in an unexpected place, it panics, after which
it may never come back from being closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from agent.wake import Wake
from agent.worker import Worker

_LOOK_AGAIN = 2000
"""Milliseconds between looks at whether the watched directory is still the one that bears the name."""
_STEP = 20
"""Milliseconds between watchfiles' looks at what the kernel has told: each costs some 10 µs, day and night."""
_DEBOUNCE = 5
"""Milliseconds; more is left to the wake, which gathers the reasons of all who notify it."""


async def watch(path: Path, wake: Wake, *, recursive: bool = True) -> None:
    """Notify `wake` of every change below `path`, for ever. A path that is not there, or that another directory has
    taken, is watched again as soon as it is seen; until then the timer of the loop has to do. For one that the kernel
    does not let us watch, it is notified every two seconds."""
    looker = Worker("identify")

    async def identified() -> tuple[int, int] | None:
        return await looker.submit(partial(_identity, path))

    try:
        await _watch(path, wake, identified, recursive=recursive)
    finally:
        looker.leave()


async def _watch(
    path: Path,
    wake: Wake,
    identified: Callable[[], Awaitable[tuple[int, int] | None]],
    *,
    recursive: bool,
) -> None:
    in_part = False
    while True:
        identity = await identified()
        if identity is None:
            await asyncio.sleep(_LOOK_AGAIN / 1000)
            if await identified() is not None:
                wake.notify(f"{path} appeared")
            continue
        try:
            async with _looks(path, recursive=recursive, in_part=in_part) as look:
                while True:
                    changed = await look()
                    if await identified() != identity:
                        wake.notify(f"{path} is another directory")
                        break
                    if changed:
                        wake.notify("files changed")
        except (OSError, RuntimeError) as error:
            # RuntimeError is what watchfiles raises for most of what inotify refuses, such as one instance too many.
            if isinstance(error, PermissionError) and not in_part:
                # A part of it may not be read. Only now, since it hides every other error too.
                in_part = True
                continue
            await asyncio.sleep(_LOOK_AGAIN / 1000)
            wake.notify(f"{path} cannot be watched")


@asynccontextmanager
async def _looks(
    path: Path, *, recursive: bool, in_part: bool
) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """What waits for the next change and says whether there was one within `_LOOK_AGAIN`. It raises OSError or
    RuntimeError where there is no watching."""
    from watchfiles import watch

    stop = threading.Event()
    looks = watch(
        path,
        recursive=recursive,
        step=_STEP,
        debounce=_DEBOUNCE,
        rust_timeout=_LOOK_AGAIN,
        yield_on_timeout=True,
        watch_filter=None,
        ignore_permission_denied=in_part,
        stop_event=stop,
    )
    watcher = Worker("watch")
    try:
        yield lambda: watcher.submit(partial(_look, looks))
    finally:
        stop.set()
        watcher.leave(partial(_leave, looks))


def _look(looks: Iterator[Collection[object]]) -> bool:
    with _panics_told():
        return bool(next(looks, None))


def _leave(looks: Generator[object, None, None]) -> None:
    """Have it let go of what it watched. Where it cannot, that goes with the process."""
    with suppress(OSError, RuntimeError), _panics_told():
        looks.close()


@contextmanager
def _panics_told() -> Iterator[None]:
    """Rust's panics come as an exception that is no Exception and that nobody can import: here as RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError):
        raise
    except BaseException as panic:
        raise RuntimeError(f"watchfiles gave up: {panic}") from panic


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
