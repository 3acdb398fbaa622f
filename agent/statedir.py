"""The state directory: made once, private, with an id of its own, and held by one agent at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent import durable
from agent.errors import StateInUse, StateUnusable
from agent.paths import StatePaths

# struct flock of fcntl(2) on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "@hhqqi"
_TOLD_WITHIN = 1.0
"""Seconds from holding the directory to having told who does; a millisecond is usual."""
_MADE = b"an agent made this directory\n"
"""In the lock of a directory that was not there before."""


class StateDirectory:
    """A state directory that this process holds until `close`."""

    def __init__(
        self, root: Path, lost: Callable[[StatePaths], str | None] = lambda _: None
    ) -> None:
        """Make the directory if it is not there, and hold it. `lost` finds its id where that is not written there any
        more, None where there is nothing to find it by. Raises StateUnusable for one that others may touch or
        that cannot be made, StateInUse for one that another agent holds."""
        self.paths = StatePaths(root.absolute())
        try:
            while not self._enter(root):
                pass
            try:
                self.state_id = _identity(self.paths, lost)
                _clear_up(self.paths)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise StateUnusable(
                f"making the state directory {root}: {error.filename or root}: {error.strerror}",
                hint="choose another with --state, or make it writable for this user",
            ) from error

    def _enter(self, root: Path) -> bool:
        """Make it and hold it; False where its last holder removed it meanwhile, lock and all."""
        made = _make(self.paths.root)
        check_private(self.paths.root)
        self._directory = os.open(self.paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1
        try:
            if not self._hold(root):
                self.close()
                return False
            for directory in (self.paths.instances, self.paths.images):
                _make(directory)
            if made:
                os.pwrite(self._lock, _MADE, 0)
        except BaseException:
            self.close()
            raise
        return True

    def _hold(self, root: Path) -> bool:
        """The directory itself is what is held: whatever is removed from it, that stays. False where it is gone."""
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._directory).st_nlink:
                return False
            self._lock = self._tell()
        except BlockingIOError as error:
            pid = self._holder()
            who = f"pid {pid}" if pid else "a process that cannot be seen from here"
            raise StateInUse(
                f"the state directory {root} is held by another agent, {who}",
                hint="stop that one first, or choose another directory with --state",
            ) from error
        return True

    def _holder(self) -> int | None:
        """Who holds it instead; that is told a moment after it is held, unless somebody has removed the lock."""
        waiting, end = threading.Event(), time.monotonic() + _TOLD_WITHIN
        while (pid := holder(self.paths)) is None and time.monotonic() < end:
            waiting.wait(0.01)
        return pid

    def _tell(self) -> int:
        """The lock by which others know who holds the directory, held."""
        lock = os.open(
            self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def tell_again(self) -> bool:
        """Make the lock anew where somebody has removed it; whether that was so. Raises OSError."""
        if os.fstat(self._lock).st_nlink:
            return False
        made, before = os.pread(self._lock, len(_MADE), 0), self._lock
        self._lock = self._tell()
        os.pwrite(self._lock, made, 0)
        os.close(before)
        return True

    def remove(self) -> None:
        """Remove the lock, and the directory where an agent made it and nothing else is left in it. Who holds that next
        finds that it has no name any more, and begins anew."""
        made = os.pread(self._lock, len(_MADE), 0) == _MADE
        self.paths.lock.unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                self.paths.root.rmdir()

    def close(self) -> None:
        """Let go of it."""
        if self._lock >= 0:
            os.close(self._lock)
        os.close(self._directory)


UNSEEN = 0
"""Stands for the pid of an agent that cannot be seen from here: it runs in another container, or on another host."""


def holder(paths: StatePaths) -> int | None:
    """The pid of the agent that holds the state directory now, or UNSEEN; None when nobody does. Asking takes no lock.

    Not for the process that holds it: whichever descriptor of a file a process closes, its own locks on that file end
    (fcntl(2)).
    """
    try:
        lock = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        told = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return None if told[0] == fcntl.F_UNLCK else max(UNSEEN, int(told[4]))


def _make(directory: Path) -> bool:
    """Make it, for nobody else, and what is missing above it, where nobody else may write whatever the umask says.
    Whether it was not there."""
    for above in reversed(directory.parents):
        if not above.exists():
            above.mkdir(0o755, exist_ok=True)  # another agent may be at it
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise
        return False
    return True


def check_private(root: Path) -> None:
    """Raises StateUnusable for a directory that another user owns, may enter or may exchange, and OSError."""
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise StateUnusable(
            f"the state directory {root} belongs to uid {found.st_uid}, not to {os.geteuid()}",
            hint="run the agent as its owner, or choose another with --state",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StateUnusable(
            f"the state directory {root} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod 0700 {root}",
        )

    above = next((path for path in root.resolve().parents if _open_to_all(path)), None)
    if above is not None:
        raise StateUnusable(
            f"the state directory {root} could be exchanged: anybody may write to {above}",
            hint=f"chmod o-w {above}, or choose another directory with --state",
        )


def _open_to_all(directory: Path) -> bool:
    """Whether anybody may rename what lies in it; the sticky bit keeps that to owners."""
    mode = directory.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _clear_up(paths: StatePaths) -> None:
    """Remove what writes left that a crash cut off."""
    images = (paths.images, paths.images / "sources")
    for directory in (paths.root, *images, paths.keys, paths.host_keys, paths.runs):
        durable.clear_up(directory)
    runs = paths.runs.iterdir() if paths.runs.is_dir() else ()
    for directory in (*paths.instances.iterdir(), *runs):
        with suppress(OSError):  # one that cannot be read is one instance's trouble
            durable.clear_up(directory)


def _identity(paths: StatePaths, lost: Callable[[StatePaths], str | None]) -> str:
    try:
        descriptor = os.open(paths.identity, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        made = lost(paths) or str(uuid.uuid4())
        durable.write(paths.identity, f"{made}\n".encode(), replace=False)
        return made
    with open(descriptor, "rb") as file:
        content = file.read()
    try:
        return str(uuid.UUID(content.decode().strip()))
    except ValueError as error:
        raise StateUnusable(
            f"{paths.identity} holds no UUID", hint="restore it from a backup of the directory"
        ) from error
