"""`holdfast events`: what happened, from the ledger; `-f` goes on telling."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import click

from agent.cli.options import option, output_option, state_option
from agent.cli.reading import open_reader
from agent.cli.text import in_line
from agent.paths import StatePaths
from state.clock import stamp

if TYPE_CHECKING:
    from state.history import Event

_LOOK_AGAIN = 0.3


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@option("--last", type=click.IntRange(min=1), default=100, envvar=None, show_default=True)
@output_option
@state_option
def events(state: StatePaths, output: str, last: int, follow: bool, name: str | None) -> None:
    """What happened to every name, or to one. With `-o json`: one object a line."""
    from state.ids import Name

    of_name = Name(name) if name else None
    reader = open_reader(state)
    waiting = threading.Event()
    seen = 0
    try:
        for event in reader.events(name=of_name, last=last):
            _tell(event, output)
            seen = event.id
        while follow:
            waiting.wait(_LOOK_AGAIN)
            for event in reader.events(name=of_name, after=seen):
                _tell(event, output)
                seen = event.id
    finally:
        reader.close()


def _tell(event: Event, output: str) -> None:
    at = stamp(event.at)
    if output == "json":
        told = {
            "id": event.id, "at": at, "kind": event.kind, "name": event.name, "uid": event.uid,
            "reason": event.reason, "message": event.message, "pass": event.pass_id or None,
        }  # fmt: skip
        click.echo(json.dumps(told))
        return
    click.echo(f"{at}  {event.name or '-':<16} {event.reason:<18} {in_line(event.message)}")
