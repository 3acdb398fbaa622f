"""The person's own terminal, given over to a guest or a display for a while and given back whole."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


def at_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def raw() -> AbstractContextManager[None]:
    """Every key goes through as it is typed, whatever it is; restored however the block ends."""
    return _as(tty.setraw)


def keys() -> AbstractContextManager[None]:
    """Each key counts as it is pressed and is not shown, and those that interrupt do so; restored like that."""
    return _as(tty.setcbreak)


def pressed(at_most: float) -> str | None:
    """A key that is pressed within so many seconds; empty for none, None where nobody can press any more. Read from the
    terminal itself: what Python reads ahead of it, nobody would be told of."""
    keyboard = sys.stdin.fileno()
    if not select.select([keyboard], [], [], at_most)[0]:
        return ""
    return os.read(keyboard, 1).decode(errors="replace") or None


@contextmanager
def _as(set_to: Callable[[int], object]) -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    with unwinding():
        try:
            set_to(descriptor)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def unwinding() -> Iterator[None]:
    """Told to end (SIGTERM), the block is left as by an error: what it has done to the terminal is undone."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def size() -> tuple[int, int]:
    """Columns and rows."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return found.columns, found.lines
