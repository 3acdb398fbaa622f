"""`holdfast logs`: what a guest wrote to its serial console, or QEMU to its standard error."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import click

from agent.cli.options import option, state_option
from agent.cli.reading import open_reader
from agent.cli.text import harmless
from agent.errors import BadInput
from agent.paths import StatePaths

_LOOK_AGAIN = 0.2
_CHUNK = 1 << 16


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written.")
@option(
    "--console", is_flag=True, envvar=None, help="The serial console (what a VM has by default)."
)
@option("--qemu", is_flag=True, envvar=None, help="QEMU's own words instead.")
@state_option
def logs(state: StatePaths, name: str, follow: bool, console: bool, qemu: bool) -> None:
    """What the guest of a VM wrote to its serial console. Control characters are shown, not obeyed."""
    if console and qemu:
        raise click.UsageError("--console and --qemu exclude each other")
    path = _path(state, name, qemu)
    waiting = threading.Event()
    at = 0
    while True:
        at = _copy(path, at)
        if not follow:
            return
        waiting.wait(_LOOK_AGAIN)
        newest = _path(state, name, qemu)
        if newest != path:
            path, at = newest, 0


def _path(state: StatePaths, name: str, qemu: bool) -> Path:
    reader = open_reader(state)
    try:
        instances = [one for one in reader.instances() if one.name == name]
    finally:
        reader.close()
    started = [one for one in instances if one.started_at is not None] or instances
    if not started:
        raise BadInput(f"there is no VM `{name}` here", hint="`holdfast status` lists every name")
    files = state.instance(started[-1].uid)
    return files.qemu_log if qemu else files.console_log


def _copy(path: Path, at: int) -> int:
    """Print what lies behind `at`; a file that was cut short is read from its start."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < at:
                at = 0
            file.seek(at)
            while piece := file.read(_CHUNK):
                at += len(piece)
                text = piece.decode("utf-8", "replace").replace("\r\n", "\n")
                sys.stdout.write(harmless(text))
    except FileNotFoundError:
        return 0
    sys.stdout.flush()
    return at
