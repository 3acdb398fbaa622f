"""`holdfast ssh`: a shell or a command in a guest, with the keys that were pinned for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from agent.cli import terminal
from agent.cli.guests import entered
from agent.cli.options import state_option
from agent.cli.output import OutputLost, write_all
from agent.paths import StatePaths
from state.ids import Name

if TYPE_CHECKING:
    from agent.guest.ssh import Channel

_CHUNK = 1 << 15
_NO_STATUS = 255
"""What OpenSSH's client says when the connection ended without an exit status."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@state_option
def ssh(state: StatePaths, name: str, command: tuple[str, ...]) -> int:
    """Into the guest of a VM: a shell, or `-- COMMAND…`, whose output and exit status are this command's.

    A guest that is not ready yet is waited for, a minute at most.
    """
    from agent.guest.ssh import channel_of

    with entered(state, name) as transport:
        channel = channel_of(transport, Name(name))
        if command:
            channel.exec_command(" ".join(command))
            return _join(channel)
        if not terminal.at_terminal():
            # As OpenSSH has it: a shell that reads its commands from a pipe, and ends with it.
            channel.invoke_shell()
            return _join(channel)
        columns, rows = terminal.size()
        channel.get_pty(os.environ.get("TERM", "dumb"), columns, rows)
        channel.invoke_shell()
        signal.signal(signal.SIGWINCH, lambda *_: channel.resize_pty(*terminal.size()))
        with terminal.raw():
            return _join(channel)


def _join(channel: Channel) -> int:
    """Both outputs drained beside each other, or a full one would hold up the other; then the exit status."""
    threading.Thread(target=_send, args=(channel,), daemon=True).start()
    errors = threading.Thread(target=_drain_errors, args=(channel,))
    errors.start()
    while piece := channel.recv(_CHUNK):
        write_all(sys.stdout.fileno(), piece)
    errors.join()
    status = channel.recv_exit_status()
    return _NO_STATUS if status < 0 else status


def _drain_errors(channel: Channel) -> None:
    while piece := channel.recv_stderr(_CHUNK):
        # Taken from the guest also where nobody takes it from us, or the command would wait for that.
        with suppress(OutputLost):
            write_all(sys.stderr.fileno(), piece)


def _send(channel: Channel) -> None:
    try:
        while piece := os.read(sys.stdin.fileno(), _CHUNK):
            channel.sendall(piece)
        channel.shutdown_write()
    except (OSError, ValueError):
        # The command ended first, or there is no standard input.
        return
