"""What `run --once` shows of jobs while it waits for their ends: on a terminal each with its last line, elsewhere one
line for each change of phase."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli import output
from agent.cli.jobtext import COLOURS
from agent.cli.output import OutputLost
from agent.cli.text import in_line, span
from agent.paths import StatePaths
from state.ids import Name
from state.runs import Run, RunPhase

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_REFRESH = 0.25
_LAST_WORDS = 4096
"""Bytes of the end of a log in which its last line is looked for."""


class Showing:
    """The runs of this agent's time, as they are recorded. An output that takes no more ends the show, nothing else."""

    def __init__(self, state: StatePaths) -> None:
        self._state = state
        self._runs: dict[Name, Run] = {}
        self._live: Live | None = None
        self._over = False

    def told(self, run: Run) -> None:
        """Show what was recorded of a run."""
        before = self._runs.get(run.name)
        self._runs[run.name] = run
        seen = (before.id, before.phase, before.attempt) if before is not None else None
        if seen != (run.id, run.phase, run.attempt):
            self._said(self._draw if self._live else lambda: click.echo(_line(run)))

    async def refresh(self) -> None:
        """Draw it anew, for ever: scripts go on talking."""
        while self._live is not None:
            self._said(self._draw)
            await asyncio.sleep(_REFRESH)

    @contextmanager
    def on_screen(self) -> Iterator[None]:
        """Where standard output is a terminal, what is shown stands in place there while the block lasts."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.live import Live

        # The agent's own log goes on above it, if it goes to the same screen.
        live = Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=sys.stderr.isatty())
        live.start()
        self._live = live
        try:
            yield
        finally:
            self._said(self._draw)
            self._live = None
            self._said(live.stop)

    def _said(self, say: Callable[[], None]) -> None:
        if self._over:
            return
        try:
            say()
            sys.stdout.flush()
        except OutputLost:
            self._over = True
            output.give_up()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for run in self._runs.values():
            since = run.started_at or run.began_at
            until = run.ended_at or time.time()  # noqa: TID251
            table.add_row(
                run.name,
                Text(run.phase.value, style=COLOURS[run.phase.value]),
                span(until - since) if since is not None else "",
                Text(in_line(run.message) or last_line(self._state.run(run.id).log)),
            )
        return table


def _line(run: Run) -> str:
    said = f"{run.name}: run {run.number}: {run.phase.value}"
    if run.phase is RunPhase.BOOTING and run.attempt > 1:
        said += f", attempt {run.attempt}"
    return in_line(f"{said}: {run.message}" if run.message else said)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LAST_WORDS))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((in_line(line) for line in reversed(lines) if line.strip()), "")
