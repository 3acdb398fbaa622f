"""Unix sockets that nobody but this user can reach, and the directories that they lie in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import Blocked


def own_directory(path: Path) -> None:
    """Make `path` and what is missing above it, for nobody but us. Raises Blocked where somebody else could enter."""
    if not path.parent.exists():
        own_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir(0o700)
    stat = path.lstat()
    if stat.st_uid != os.geteuid() or stat.st_mode & 0o170077 != 0o040000:
        raise Blocked(
            f"{path} is not a directory of this user alone", hint=f"chmod 700 {path}, or remove it"
        )


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that listens at `path`, mode 0600 from birth, in place of one that nobody holds any more."""
    with suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Linux makes the name with the mode of the unbound socket, less the umask (net/unix/af_unix.c).
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        listener.listen(8)
        yield listener
