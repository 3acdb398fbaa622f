"""What makes the loop look again: edits, machines, time. A wake carries a reason for the log and no instruction."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

from agent.worker import Worker

QUIET = 0.01
"""Seconds without a further wake after which a burst is over: an editor's write, fsync and rename lie closer."""
LONGEST_BURST = 0.1
"""Seconds after which a burst is answered although it goes on."""
_LOOK_AGAIN = 2000
"""Milliseconds between looks at whether the watched directory is still the one that bears the name."""


class Wake:
    """Collects reasons until somebody waits for them."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}
        self._event = asyncio.Event()

    def notify(self, reason: str) -> None:
        """Say *look*. Called in the event loop."""
        self._reasons[reason] = None
        self._event.set()

    async def wait(self, at_most: float) -> tuple[str, ...]:
        """The reasons of one burst, each once; `timer` after `at_most` seconds without any."""
        loop = asyncio.get_running_loop()
        if not self._reasons and not await self._more(at_most):
            return ("timer",)
        end = loop.time() + LONGEST_BURST
        while (left := end - loop.time()) > 0 and await self._more(min(QUIET, left)):
            pass
        # A wake may have come with the very end of the wait; its reason is among these.
        self._event.clear()
        reasons, self._reasons = tuple(self._reasons), {}
        return reasons

    async def _more(self, at_most: float) -> bool:
        try:
            # Not wait_for: in Python 3.11 it can swallow a cancellation that comes with the event.
            async with asyncio.timeout(at_most):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


async def watch(path: Path, wake: Wake, *, recursive: bool = True) -> None:
    """Notify `wake` of every change below `path`, for ever. A path that is not there, or that another directory has
    taken, is watched again as soon as it is seen; until then the timer of the loop has to do. For one that the kernel
    does not let us watch, it is notified every two seconds."""
    looker = Worker("watch")

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
    from watchfiles import awatch

    in_part = False
    while True:
        identity = await identified()
        if identity is None:
            await asyncio.sleep(_LOOK_AGAIN / 1000)
            if await identified() is not None:
                wake.notify(f"{path} appeared")
            continue
        try:
            async with aclosing(
                awatch(
                    path,
                    recursive=recursive,
                    step=1,
                    debounce=5,
                    rust_timeout=_LOOK_AGAIN,
                    yield_on_timeout=True,
                    watch_filter=None,
                    ignore_permission_denied=in_part,
                )
            ) as looks:
                async for changes in looks:
                    if await identified() != identity:
                        wake.notify(f"{path} is another directory")
                        break
                    if changes:
                        wake.notify("files changed")
        except (OSError, RuntimeError) as error:
            # RuntimeError is what watchfiles raises for most of what inotify refuses, such as one instance too many.
            if isinstance(error, PermissionError) and not in_part:
                # A part of it may not be read. Only now, since it hides every other error too.
                in_part = True
                continue
            await asyncio.sleep(_LOOK_AGAIN / 1000)
            wake.notify(f"{path} cannot be watched")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
