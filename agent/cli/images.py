"""`holdfast images ls`, `fetch` and `prune`: what lies in the store of base images, bringing more there, and what of it
nobody needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from agent.cli.asking import either
from agent.cli.bars import bars
from agent.cli.operate import ask, by_itself
from agent.cli.options import output_option, state_option
from agent.cli.reading import open_reader
from agent.cli.settings import said_settings, source_options
from agent.cli.text import in_line, span
from agent.config import Settings
from agent.errors import BadUsage
from agent.operator import Operator
from agent.orders import Tell
from agent.paths import StatePaths
from state.observed import HowFar
from state.records import SETTINGS_KEY
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

    found = ask(state, "prune", alone, {"dry_run": "true"} if dry_run else {})["images"]
    if output == "json":
        click.echo(json.dumps(found, indent=1))
        return
    for one in found:
        click.echo(in_line(f"{'would remove' if dry_run else 'removed'} {_said(one)}"))
    room = format_size(sum(one["size"] for one in found) >> 20 << 20)
    number = f"{len(found)} image{'s' * (len(found) != 1)}"
    click.echo(f"{number}, {room} {'to be ' if dry_run else ''}had back")


@images.command()
@click.argument("labels", nargs=-1, metavar="[LABEL]...")
@source_options
@output_option
@state_option
def fetch(state: StatePaths, output: str, labels: tuple[str, ...], **options: Any) -> int:
    """Bring images of the image map into the store, all of them by default, so that nobody has to wait for them later.
    Status 1 if one could not be had.

    The agent does it where one runs, and this command itself where none does, then by the documents that the last agent
    had or that the options name."""
    said = said_settings(state, options)
    with bars() as tell:
        found = _fetched(state, said, labels, tell)
    if output == "json":
        click.echo(json.dumps(found, indent=1))
    for one in found if output == "text" else ():
        if one["error"] is None:
            how = "fetched" if one["fetched"] else "is there"
            click.echo(in_line(f"{one['label']}: {how}, {one['digest'][:19]}"))
    for one in found:
        if one["error"] is not None:
            click.echo(in_line(f"holdfast: {one['label']}: {one['error']}"), err=True)
    return 1 if any(one["error"] for one in found) else 0


def _fetched(
    state: StatePaths, said: Settings, labels: Sequence[str], tell: Tell
) -> list[dict[str, Any]]:
    from agent.web import client

    def hear(told: dict[str, Any]) -> None:
        for label, far in told["far"].items():
            tell(label, HowFar(**far))

    def by_agent() -> dict[str, Any]:
        _refuse_another_source(state, said)
        return client.follow(state.api_socket, "fetch", [("image", one) for one in labels], hear)

    async def alone(operator: Operator) -> dict[str, Any]:
        brought = await operator.fetch(operator.ordered(labels), tell)
        return {"images": [asdict(one) for one in brought]}

    makes = said.desired is not None or said.git is not None
    told = either(state, by_agent, lambda: by_itself(state, alone, said), makes=makes)
    found: list[dict[str, Any]] = told["images"]
    return found


def _refuse_another_source(state: StatePaths, said: Settings) -> None:
    """Raises BadUsage where the agent that runs was told something else."""
    with closing(open_reader(state)) as reader:
        told = Settings.from_json(reader.meta(SETTINGS_KEY))
    if said.or_else(told) != told:
        raise BadUsage(
            f"fetching images: the agent that keeps {state.root} has other options",
            hint="leave them out, or stop it first",
        )


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
