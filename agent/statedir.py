"""The state directory: made once, private, with an id of its own, and held by one agent at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import uuid
from pathlib import Path

from agent import durable
from agent.errors import StateInUse, StateUnusable
from agent.paths import StatePaths

# struct flock of fcntl(2) on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "@hhqqi"


class StateDirectory:
    """A state directory that this process holds until `close`."""

    def __init__(self, root: Path) -> None:
        """Make the directory if it is not there, and hold it. Raises StateUnusable for one that others may touch or
        that cannot be made, StateInUse for one that another agent holds."""
        self.paths = StatePaths(root.absolute())
        try:
            for directory in (self.paths.root, self.paths.instances, self.paths.images):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateUnusable(
                f"making the state directory {root}: {error.strerror}",
                hint="choose another with --state, or make it writable for this user",
            ) from error
        _check_private(self.paths.root)
        self._lock = os.open(
            self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            pid = holder(self.paths)
            who = f"pid {pid}" if pid else "a process that cannot be seen from here"
            raise StateInUse(
                f"the state directory {root} is held by another agent, {who}",
                hint="stop that one first, or choose another directory with --state",
            ) from error
        self.state_id = _identity(self.paths)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._lock)


def holder(paths: StatePaths) -> int | None:
    """The pid of the agent that holds the state directory now; None when nobody does. Asking takes no lock."""
    try:
        lock = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        told = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return None if told[0] == fcntl.F_UNLCK else int(told[4])


def _check_private(root: Path) -> None:
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


def _identity(paths: StatePaths) -> str:
    try:
        return str(uuid.UUID(paths.identity.read_text().strip()))
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise StateUnusable(
            f"{paths.identity} holds no UUID", hint="restore it from a backup of the directory"
        ) from error
    made = str(uuid.uuid4())
    durable.write(paths.identity, f"{made}\n".encode(), replace=False)
    return made
