"""Notifies the loop of what changes in a directory, whatever becomes of that directory and of what watches it.

watchfiles does the watching, in a thread that nothing waits for: it walks a tree before it watches it, which takes for
ever on a file system that does not answer; and where the kernel fails it in an unexpected place, it panics, after which
it may never come back from being closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.paths import identity
from agent.wake import Wake
from agent.worker import Worker

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

_LOOK_AGAIN = 2000
"""Milliseconds between looks at whether the watched directory is still the one that bears the name."""
_STEP, _SLOW_STEP = 20, 40
"""Milliseconds between watchfiles' looks at what the kernel has told, while things change and once they have not for
`_QUICK_FOR`: each look costs 10 to 80 µs, day and night, and a change is told of at the second."""
_QUICK_FOR = 60.0
"""Seconds."""
_DEBOUNCE = 5
"""Milliseconds; more is left to the wake, which gathers the reasons of all who notify it."""


async def watch(path: Path, wake: Wake, *, recursive: bool = True) -> None:
    """Notify `wake` of every change below `path`, for ever. A path that is not there, or that another directory has
    taken, is watched again as soon as it is seen; until then the timer of the loop has to do. For one that the kernel
    does not let us watch, it is notified every two seconds."""
    looker = Worker("identify")

    async def identified() -> tuple[int, int] | None:
        return await looker.submit(partial(identity, path))

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
    watched = _Watched(path, recursive=recursive, in_part=in_part)
    watcher = Worker("watch")
    try:
        yield lambda: watcher.submit(watched.look)
    finally:
        watched.stop.set()
        watcher.leave(watched.leave)


class _Watched:
    """A directory under the kernel's eyes, used in one thread; `stop` may be set from any. It goes to watchfiles' own
    interface to Rust, since `watchfiles.watch` looks as often by night as while somebody edits."""

    def __init__(self, path: Path, *, recursive: bool, in_part: bool) -> None:
        self.stop = threading.Event()
        self._path, self._recursive, self._in_part = path, recursive, in_part
        self._notify: RustNotify | None = None
        self._quick_until = time.monotonic() + _QUICK_FOR

    def look(self) -> bool:
        """Whether something changed within `_LOOK_AGAIN`."""
        with _panics_told():
            from watchfiles._rust_notify import RustNotify

            if self._notify is None:
                self._notify = RustNotify(
                    [os.fspath(self._path)], False, False, 0, self._recursive, self._in_part
                )
            step = _STEP if time.monotonic() < self._quick_until else _SLOW_STEP
            changed = isinstance(self._notify.watch(_DEBOUNCE, step, _LOOK_AGAIN, self.stop), set)
        if changed:
            self._quick_until = time.monotonic() + _QUICK_FOR
        return changed

    def leave(self) -> None:
        """Let go of it. Where it cannot, that goes with the process."""
        with suppress(OSError, RuntimeError), _panics_told():
            if self._notify is not None:
                self._notify.close()


@contextmanager
def _panics_told() -> Iterator[None]:
    """Rust's panics come as an exception that is no Exception and that nobody can import: here as RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError):
        raise
    except BaseException as panic:
        raise RuntimeError(f"watchfiles gave up: {panic}") from panic
