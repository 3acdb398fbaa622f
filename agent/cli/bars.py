"""How far downloads are, on standard error: bars where that is a terminal, a line for each tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from agent.cli.text import in_line
from agent.orders import Tell
from state.observed import HowFar


@contextmanager
def bars() -> Iterator[Tell]:
    """What is to be told of each download how far it is, while the block lasts."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        shown: dict[str, TaskID] = {}

        def tell(label: str, far: HowFar) -> None:
            if label not in shown:
                shown[label] = progress.add_task(in_line(label), total=far.total)
            progress.update(shown[label], completed=far.got, total=far.total)

        yield tell


class _Lines:
    """A line when one begins, and one for each tenth of it."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def tell(self, label: str, far: HowFar) -> None:
        tenth = 10 * far.got // far.total if far.total else 0
        if self._said.get(label, -1) < tenth:
            self._said[label] = tenth
            click.echo(in_line(f"{label}: {far}"), err=True)
