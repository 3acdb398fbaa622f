"""`holdfast top`: what every VM uses just now, from what the agent has measured last."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from agent.cli import terminal
from agent.cli.options import option, output_option, state_option
from agent.cli.reading import measured
from agent.cli.tables import fitted, screen
from agent.metrics.figures import FIGURES, told, written
from agent.paths import StatePaths
from state.usage import rates

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOOK_AGAIN = 1.0
"""Seconds between looks."""
_BY = {
    "cpu": "cpu", "memory": "resident_bytes", "read": "read_bytes", "write": "written_bytes",
    "disk": "allocated_bytes", "name": "name",
}  # fmt: skip
_KEYS = {word[0]: word for word in _BY}
_SHOWN = tuple(
    figure
    for figure in FIGURES
    if figure.key not in ("vcpu", "reads", "writes", "balloon_bytes", "guest_total_bytes")
)


@click.command()
@option(
    "--sort",
    type=click.Choice(list(_BY)),
    default="cpu",
    show_default=True,
    envvar=None,
    help="What comes first.",
)
@output_option
@state_option
def top(state: StatePaths, output: str, sort: str) -> None:
    """What every VM uses just now. On a terminal it goes on: c, m, r, w, d and n choose what comes first, q ends it."""
    if output == "json":
        click.echo(json.dumps(_look(state, sort), indent=1))
        return
    console, width = screen()
    if width is None or not sys.stdin.isatty() or console.is_dumb_terminal:
        console.print(_table(_look(state, sort), width))
        return
    _watch(state, sort)


def _watch(state: StatePaths, sort: str) -> None:
    from rich.live import Live

    with terminal.keys(), Live(auto_refresh=False, screen=True) as live:
        while True:
            live.update(_table(_look(state, sort), live.console.width), refresh=True)
            pressed = terminal.pressed(_LOOK_AGAIN)
            if pressed in ("q", None):
                return
            sort = _KEYS.get(pressed or "", sort)


def _look(state: StatePaths, sort: str) -> list[dict[str, Any]]:
    """Every machine that was measured twice lately: its name and its figures."""
    now = time.time()  # noqa: TID251 - what is recent
    with measured(state) as reader:
        named = {one.uid: one for one in reader.series()}
        latest = reader.recent(now)
    newest = {uid: known[-1] for uid, samples in latest.items() if (known := rates(samples))}
    # Whoever was there at the last look, or at the one before it, which may be under way.
    since = sorted({sample.at for samples in latest.values() for sample in samples})[-2:]
    found = [
        {"kind": named[uid].kind, "name": named[uid].name, **told(uid, rate)}
        for uid, rate in newest.items()
        if uid in named and rate.sample.at >= since[0]
    ]
    found.sort(key=lambda one: one["name"])
    if sort != "name":
        found.sort(key=lambda one: one[_BY[sort]] or 0, reverse=True)
    return found


def _table(found: list[dict[str, Any]], width: int | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = [
        (one["name"], *(written(one[figure.key], figure.unit) for figure in _SHOWN))
        for one in found
    ]
    table = fitted(
        ("NAME", *(figure.title for figure in _SHOWN)), rows, width, spare=("GUEST FREE", "DISK")
    ).table
    if found:
        return table
    return Group(table, Text("nothing was measured lately"))
