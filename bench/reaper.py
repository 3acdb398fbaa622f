"""Begins daemons and is the parent of what they leave to nobody, as systemd is on a host: it reaps at once what has
ended. A program of its own, which reads lines of JSON: words are begun, the number of a process that it began is ended
by SIGTERM. Each is answered with a line, the process's number, once it is so.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys

PR_SET_CHILD_SUBREAPER = 36
"""Of prctl(2)."""


def main() -> None:
    """Until its input ends."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("prctl refuses to make this process a subreaper")
    ended, wakes = socket.socketpair()
    for one in (ended, wakes):
        one.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    waits = selectors.DefaultSelector()
    waits.register(ended, selectors.EVENT_READ)
    waits.register(sys.stdin, selectors.EVENT_READ)
    awaited: set[int] = set()
    while True:
        for key, _ in waits.select():
            if key.fileobj is ended:
                ended.recv(4096)
            elif line := sys.stdin.readline():
                _do(json.loads(line), awaited)
            else:
                return
        for pid in awaited & set(_reaped()):
            awaited.discard(pid)
            print(pid, flush=True)


def _do(said: list[str] | int, awaited: set[int]) -> None:
    if isinstance(said, int):
        awaited.add(said)
        os.kill(said, signal.SIGTERM)
    else:
        quietly = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, 2, 1),
        ]
        defaults = [signal.SIGCHLD, signal.SIGPIPE]
        pid = os.posix_spawnp(said[0], said, os.environ, file_actions=quietly, setsigdef=defaults)
        print(pid, flush=True)


def _reaped() -> list[int]:
    """Every child that has ended."""
    found = []
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) > 0:
            found.append(pid)
    except ChildProcessError:
        pass
    return found


if __name__ == "__main__":
    main()
