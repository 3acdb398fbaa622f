"""The person's own terminal, given over to a guest for a while and given back whole."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


def stdin() -> int | None:
    """The descriptor of standard input; None for a program that was started without one."""
    return None if sys.stdin is None else sys.stdin.fileno()


def at_terminal() -> bool:
    """Whether a person sits at both ends."""
    descriptor = stdin()
    return descriptor is not None and os.isatty(descriptor) and sys.stdout.isatty()


@contextmanager
def raw() -> Iterator[None]:
    """Every key goes through as it is typed; restored however the block ends."""
    descriptor = stdin()
    if descriptor is None or not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def size() -> tuple[int, int]:
    """Columns and rows."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return found.columns, found.lines


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little the other side takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
