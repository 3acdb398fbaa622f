"""`holdfast console`: the serial line of a VM, as it is; Ctrl-] leaves it."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
from contextlib import ExitStack, suppress

import click

from agent.cli import terminal
from agent.cli.guests import running_instance
from agent.cli.options import state_option
from agent.cli.output import write_all
from agent.errors import BadInput
from agent.paths import InstancePaths, StatePaths

_LEAVE = b"\x1d"
_CHUNK = 1 << 15
_LAST_WORDS = 1.0
"""Seconds without output after which a console without a person at it ends, once its input has ended."""


@click.command()
@click.argument("name")
@state_option
def console(state: StatePaths, name: str) -> None:
    """The serial line of a VM, both ways, unfiltered: what the guest writes acts on your terminal. Ctrl-] leaves."""
    instance = running_instance(state, name)
    with ExitStack() as stack:
        line = _opened(state.instance(instance.uid), f"opening the console of {name}", stack)
        if terminal.at_terminal():
            click.echo(f"console of {name}; Ctrl-] leaves", err=True)
        # It may end at any moment, and its console with it.
        with terminal.raw(), suppress(ConnectionError):
            _join(line)


def _opened(files: InstancePaths, tried: str, stack: ExitStack) -> socket.socket:
    """The line, and for as long a lock on it: QEMU talks to one client and lets the next one wait without a word."""
    line = stack.enter_context(socket.socket(socket.AF_UNIX))
    try:
        directory = os.open(files.sockets, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        line.connect(os.fspath(files.console_socket))
    except BlockingIOError as error:
        raise BadInput(
            f"{tried}: somebody else has it", hint="one client at a time can; Ctrl-] leaves"
        ) from error
    except FileNotFoundError as error:
        raise BadInput(
            f"{tried}: somebody removed {files.console_socket}",
            hint="it is made anew when the VM is started again",
        ) from error
    except OSError as error:
        raise BadInput(f"{tried}: {error.strerror}") from error
    return line


def _join(line: socket.socket) -> None:
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sources: list[int] = [line.fileno(), keyboard]
    while True:
        ready = select.select(sources, [], [], None if keyboard in sources else _LAST_WORDS)[0]
        if not ready:
            return
        if line.fileno() in ready:
            piece = line.recv(_CHUNK)
            if not piece:
                return
            write_all(screen, piece)
        if keyboard in ready:
            typed = os.read(keyboard, _CHUNK)
            before, left, _ = typed.partition(_LEAVE)
            line.sendall(before)
            if left:
                return
            if not typed:
                sources.remove(keyboard)
