"""`holdfast images ls` and `prune`: what lies in the store of base images, and what of it nobody needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import click

from agent.cli.operate import ask
from agent.cli.options import output_option, state_option
from agent.cli.reading import open_reader
from agent.cli.text import in_line, span
from agent.operator import Operator
from agent.paths import StatePaths
from state.spec.units import format_size


@click.group()
def images() -> None:
    """The store of base images."""


@images.command()
@state_option
@output_option
def ls(state: StatePaths, output: str) -> None:
    """Every image that lies there: its size on disk, when it was last wanted, and which vms and jobs stand on it."""
    from agent import stock
    from agent.guest.shelf import Shelf

    with closing(open_reader(state)) as reader:
        instances = reader.instances()
    found = []
    for one in Shelf(state.images).stored() if state.images.is_dir() else ():
        users = {instance.name for instance in instances if instance.base.path == one.base.path}
        found.append({**stock.told(one), "used_by": sorted(users)})
    found.sort(key=lambda one: str(one["used_at"]), reverse=True)
    if output == "json":
        click.echo(json.dumps(found, indent=1))
    else:
        _table(found)


@images.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@state_option
@output_option
def prune(state: StatePaths, output: str, dry_run: bool) -> None:
    """Remove the images that no document asks for, no run that has not ended, and no vm or job stands on."""
    from agent import stock

    async def alone(operator: Operator) -> dict[str, Any]:
        return {"images": [stock.told(one) for one in await operator.prune(dry_run=dry_run)]}

    found = ask(state, "prune", alone, {"dry_run": "1"} if dry_run else {})["images"]
    if output == "json":
        click.echo(json.dumps(found, indent=1))
        return
    for one in found:
        click.echo(in_line(f"{'would remove' if dry_run else 'removed'} {_said(one)}"))
    room = format_size(sum(one["size"] for one in found) >> 20 << 20)
    number = f"{len(found)} image{'s' * (len(found) != 1)}"
    click.echo(f"{number}, {room} {'to be ' if dry_run else ''}had back")


def _said(one: dict[str, Any]) -> str:
    return f"{one['digest'][:19]} {one['source'] or 'of an unknown source'}"


def _table(found: Sequence[dict[str, Any]]) -> None:
    from agent.cli.tables import fitted, screen

    console, width = screen()
    now = time.time()  # noqa: TID251 - ages are told to a person
    columns = ("DIGEST", "FORMAT", "SIZE", "VIRTUAL", "FETCHED", "UNUSED", "USED BY", "SOURCE")
    rows = [
        (
            one["digest"][:19],
            one["format"],
            _size(one["size"]),
            _size(one["virtual_size"]),
            _ago(one["fetched_at"], now),
            "-" if one["used_by"] else _ago(one["used_at"], now),
            in_line(", ".join(one["used_by"]) or "-"),
            in_line(one["source"] or "-"),
        )
        for one in found
    ]
    console.print(fitted(columns, rows, width, spare=("FORMAT", "FETCHED", "SOURCE")).table)


def _size(size: int) -> str:
    return f"{size >> 20}MiB" if size < 10 << 30 else f"{size >> 30}GiB"


def _ago(stamped: str, now: float) -> str:
    return span(max(0.0, now - datetime.fromisoformat(stamped).timestamp()))
