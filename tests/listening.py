"""A service manager's end of the socket that agents tell it things on, as systemd opens it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Ear:
    """Hears what is said, and keeps it in order."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        self._listener = listener
        self.address = address
        self.heard: list[str] = []

    def words(self) -> list[str]:
        """Everything that was said so far."""
        while True:
            try:
                self.heard.append(self._listener.recv(4096).decode())
            except BlockingIOError:
                return self.heard

    def count(self, word: str) -> int:
        return self.words().count(word)


@contextmanager
def ear(address: Path | str) -> Iterator[Ear]:
    """At a path, or under a name of the abstract namespace behind an `@`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        said = str(address)
        listener.bind("\0" + said[1:] if said.startswith("@") else said)
        listener.setblocking(False)
        yield Ear(listener, said)
