"""Tells the service manager that an agent is ready, lives and leaves: words on a datagram socket (sd_notify(3)).

It refuses to decide whether the agent lives, and nothing is the matter where no manager listens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress


class Manager:
    """Who started this process and waits for its word, if anybody does."""

    def __init__(self, address: str | None = None, every: float | None = None) -> None:
        """`address`: a path, or a name of the abstract namespace behind an `@`, None for nobody. `every`: seconds
        within which a sign of life is expected, None where none is."""
        self.every = every if address else None
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    @classmethod
    def of(cls, environment: MutableMapping[str, str], pid: int) -> Manager:
        """As the environment of process `pid` says, from which it is taken: children have no part in it. The deadline
        is another process's where WATCHDOG_PID says so (sd_watchdog_enabled(3))."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        whose = environment.pop("WATCHDOG_PID", "") or str(pid)
        mine = microseconds.isdecimal() and int(microseconds) > 0 and whose == str(pid)
        return cls(address or None, int(microseconds) / 1e6 if mine else None)

    def ready(self) -> None:
        """The agent is up."""
        self._say("READY=1")

    def alive(self) -> None:
        """The agent lives; nothing is said where nobody waits for that."""
        if self.every is not None:
            self._say("WATCHDOG=1")

    def leaving(self) -> None:
        """The agent is about to leave."""
        self._say("STOPPING=1")

    def _say(self, word: str) -> None:
        if self._address is None:
            return
        # Who does not listen any more, or not fast enough, is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
            mouth.setblocking(False)
            mouth.sendto(word.encode(), os.fsencode(self._address))
