"""Whether the image that a machine's disk stands on is still what it was when it came into the store.

It reads no content: size and time of modification tell of every change but one that was made to look like none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from agent.errors import StartFailed
from agent.guest.shelf import as_put


def check(name: str, base: Path, descriptor: int) -> None:
    """Raises StartFailed where the file that is open as `descriptor` is not the image any more: a disk that stands on
    another content is garbage."""
    found = os.fstat(descriptor)
    if not as_put(base, found):
        raise StartFailed(
            f"{name} cannot be started: the image that its disk stands on, {base}, was changed since it was fetched",
            hint="it is fetched again while a document asks for it",
        )


def held_as(pid: int, base: Path, before: int | None) -> int | None:
    """The number under which a process has the file open that lies, or lay, at `base`, which may be the one that was
    told before; None where it has none, or may not be looked at."""
    told = (str(base), f"{base} (deleted)")  # proc(5)
    with suppress(OSError):
        if before is not None and _opened(pid, str(before)) in told:
            return before
        # It is another after QEMU has taken over what it was given.
        return next(
            (int(one) for one in os.listdir(f"/proc/{pid}/fd") if _opened(pid, one) in told), None
        )
    return None


def _opened(pid: int, number: str) -> str | None:
    """What a process has open under a number; None where it has just closed that. Raises OSError."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except FileNotFoundError:
        return None


def remark(pid: int, descriptor: int, base: Path) -> str:
    """What is wrong with the image that the process `pid` has open as `descriptor`, as a sentence part; nothing where
    that is as it was, or the process has just let go of it. Raises OSError."""
    try:
        found = os.stat(f"/proc/{pid}/fd/{descriptor}")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if not as_put(base, found):
        return f"the image that its disk stands on, {base}, was changed under it: what it reads may be garbage"
    if not base.exists():
        return f"the image that its disk stands on, {base}, was removed: it cannot be started again without it"
    return ""
