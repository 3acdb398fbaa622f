"""`holdfast logs`: what a guest wrote to its serial console, or QEMU to its standard error."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import click

from agent.cli.options import option, state_option
from agent.cli.reading import open_reader
from agent.cli.text import Harmless
from agent.errors import BadInput
from agent.paths import StatePaths
from state.observed import Instance

_LOOK_AGAIN = 0.2
_CHUNK = 1 << 16


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, until it is destroyed.")
@option(
    "--console", is_flag=True, envvar=None, help="The serial console (what a VM has by default)."
)
@option("--qemu", is_flag=True, envvar=None, help="QEMU's own words instead.")
@state_option
def logs(state: StatePaths, name: str, follow: bool, console: bool, qemu: bool) -> None:
    """What the guest of a VM wrote to its serial console. Control characters are shown, not obeyed."""
    if console and qemu:
        raise click.UsageError("--console and --qemu exclude each other")
    instance = _newest(state, name)
    if instance is None:
        raise BadInput(f"there is no VM `{name}` here", hint="`holdfast status` lists every name")
    shown, waiting = _Shown(), threading.Event()
    log = _log(state, instance, qemu)
    found = shown.go_on(log)
    if not follow and not found and instance.started_at is not None:
        raise BadInput(
            f"reading the log of {name}: somebody removed {log}",
            hint="it is made anew when the VM is started again",
        )
    while follow and instance is not None:
        waiting.wait(_LOOK_AGAIN)
        instance = _newest(state, name)
        shown.go_on(log if instance is None else (log := _log(state, instance, qemu)))
    shown.close()


def _newest(state: StatePaths, name: str) -> Instance | None:
    """The last instance of the name that was ever started, else the last one."""
    reader = open_reader(state)
    try:
        instances = [one for one in reader.instances() if one.name == name]
    finally:
        reader.close()
    started = [one for one in instances if one.started_at is not None] or instances
    return started[-1] if started else None


def _log(state: StatePaths, instance: Instance, qemu: bool) -> Path:
    files = state.instance(instance.uid)
    return files.qemu_log if qemu else files.console_log


class _Shown:
    """One file after another, each to its end, although it is put aside or removed meanwhile."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._harmless = Harmless()

    def go_on(self, log: Path) -> bool:
        """Print what is new in the file that was read last and, where another one lies at `log` by now, all of that.
        Whether there was any file to read."""
        self._rest()
        try:
            newest = log.open("rb")
        except FileNotFoundError:
            return self._file is not None
        if self._file and os.path.sameopenfile(self._file.fileno(), newest.fileno()):
            newest.close()
            return True
        self.close()
        self._file = newest
        self._rest()
        return True

    def _rest(self) -> None:
        """What lies behind what was printed; a file that was cut short is read from its start."""
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        while piece := self._file.read(_CHUNK):
            sys.stdout.write(self._harmless.text(piece))
        sys.stdout.flush()

    def close(self) -> None:
        """The end of one file: what could have gone on there does not."""
        if self._file is not None:
            self._file.close()
            sys.stdout.write(self._harmless.end())
            sys.stdout.flush()
            self._file = None
