"""`holdfast metrics`: what one name has used, from what the agent has kept; it needs no agent."""

from __future__ import annotations

import csv
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import duration, option, state_option
from agent.cli.reading import measured
from agent.cli.tables import fitted, screen
from agent.errors import BadInput
from agent.metrics.figures import FIGURES, sparkline, told, written
from agent.paths import StatePaths
from state.ids import Name, Uid
from state.usage import Rate, rates

if TYPE_CHECKING:
    from rich.table import Table

_SPARK = 40
"""Characters of a course, where the screen has room."""
_Past = list[tuple[Uid, Rate]]


@click.command()
@click.argument("name")
@option(
    "--since",
    callback=duration,
    default="1h",
    show_default=True,
    envvar=None,
    metavar="DURATION",
    help="How far back.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="What to print; json and csv tell every sample.",
)
@state_option
def metrics(state: StatePaths, output: str, since: float, name: str) -> None:
    """What a VM or the VM of a job has used: processor, disk, memory. The last hour is kept as it was measured, a day
    by the minute, 30 days by the hour, unless the agent was told otherwise."""
    now = time.time()  # noqa: TID251 - how far back a person wants to see
    with measured(state) as reader:
        series = reader.series(Name(name))
        past = [
            (one.uid, rate) for one in series for rate in rates(reader.samples(one, now - since))
        ]
    past.sort(key=lambda one: one[1].sample.at)
    if not series:
        raise BadInput(
            f"nothing was ever measured of `{name}`", hint="`holdfast top` lists what is measured"
        )
    if output == "json":
        click.echo(json.dumps({"name": name, "samples": [told(*one) for one in past]}, indent=1))
    elif output == "csv":
        _write_csv(past)
    elif past:
        console, width = screen()
        console.print(_table(past, width))
    else:
        click.echo(
            f"nothing was measured of {name} in that time (figures begin with the second sweep over a"
            " VM; --since reaches further back)"
        )


def _write_csv(past: _Past) -> None:
    rows: list[dict[str, Any]] = [told(*one) for one in past]
    columns = ["uid", "at", "seconds", *(figure.key for figure in FIGURES)]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(past: _Past, width: int | None) -> Table:
    rows = []
    for figure in FIGURES:
        values = [figure.of(rate) for _, rate in past]
        known = [
            (value, rate.seconds)
            for value, (_, rate) in zip(values, past, strict=True)
            if value is not None
        ]
        if not known:
            continue
        mean = sum(value * seconds for value, seconds in known) / sum(span for _, span in known)
        told_of = (values[-1], mean, max(value for value, _ in known))
        spark = sparkline(values, min(_SPARK, max(8, (width or 80) - 50)))
        rows.append((figure.title, spark, *(written(value, figure.unit) for value in told_of)))
    return fitted(("FIGURE", "COURSE", "LAST", "MEAN", "MOST"), rows, width).table
