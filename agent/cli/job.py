"""`holdfast job`: what can be asked of jobs, and what is kept of their runs.

What changes the ledger is asked of the agent that holds it; where none runs, this process holds the state directory for
a moment and does the same.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import click

from agent.cli.asking import either
from agent.cli.jobtext import history_table
from agent.cli.options import option, output_option, state_option
from agent.cli.runs import meant, runs_of
from agent.cli.tables import screen
from agent.cli.text import in_line
from agent.cli.typed import typed
from agent.jobs.told import result
from agent.paths import StatePaths

if TYPE_CHECKING:
    from state.runs import Run


@click.group()
def job() -> None:
    """What is asked of jobs, and what is kept of their runs."""


@job.command()
@click.argument("name")
@state_option
def rerun(state: StatePaths, name: str) -> None:
    """Run a job again: a new run of what its document says. A VM that was kept of the last one is removed."""
    told = _ask(state, name, "rerun")
    click.echo(f"{name}: run {told['number']} is queued{_by_whom(told)}")


@job.command()
@click.argument("name")
@state_option
def cancel(state: StatePaths, name: str) -> None:
    """End a job's run that has not ended; its VM is removed."""
    told = _ask(state, name, "cancel")
    click.echo(f"{name}: run {told['number']} is to be cancelled{_by_whom(told)}")


@job.command()
@click.argument("name")
@output_option
@state_option
def history(state: StatePaths, output: str, name: str) -> None:
    """The runs of a job that are remembered, the latest first."""
    meant(state, name, None)
    told = [result(run, state.run(run.id)) for run in reversed(runs_of(state, name))]
    if output == "json":
        click.echo(json.dumps(told, indent=1))
        return
    console, width = screen()
    console.print(history_table(told, width))


@job.command()
@click.argument("name")
@option("--run", "run", envvar=None, metavar="RUN", help="Its number or id; default: the latest.")
@output_option
@state_option
def artifacts(state: StatePaths, output: str, run: str | None, name: str) -> None:
    """The files that a run left: name, bytes, sha256, and where they lie on this host."""
    one = meant(state, name, run)
    told = _artifacts(one, state)
    if output == "json":
        click.echo(json.dumps(told, indent=1))
        return
    for each in told:
        click.echo(in_line(f"{each['name']}  {each['size']}  {each['sha256']}  {each['path']}"))
    for note in one.notes:
        click.echo(in_line(f"note: {note}"), err=True)
    if not told:
        click.echo(f"run {one.number} of {name} left no artifacts", err=True)


def _artifacts(run: Run, state: StatePaths) -> list[dict[str, Any]]:
    kept = state.run(run.id).artifacts
    return [
        {
            "name": one.file,
            "size": one.size,
            "sha256": one.sha256,
            "path": str(kept / one.file),
            "guest_path": one.path,
        }
        for one in run.artifacts
    ]


def _by_whom(told: dict[str, Any]) -> str:
    return "" if told["agent"] else typed("; the next agent sees to it (`holdfast run`)")


def _ask(state: StatePaths, name: str, what: Literal["rerun", "cancel"]) -> dict[str, Any]:
    """Have it done, by the agent or here: `number` of the run, and whether an `agent` does it."""
    from agent.web.client import ask_of_job

    return either(
        state,
        lambda: ask_of_job(state.api_socket, name, what) | {"agent": True},
        lambda: {"number": _alone(state, name, what).number, "agent": False},
    )


def _alone(state: StatePaths, name: str, what: Literal["rerun", "cancel"]) -> Run:
    from agent.cli.compose import clock_of, hold, open_backend, open_ledger
    from agent.config import Settings
    from agent.jobs.requests import Requests
    from agent.jobs.store import RunStore
    from state.ids import Name
    from state.records import SETTINGS_KEY

    with (
        closing(hold(state.root)) as held,
        closing(open_ledger(held.paths)) as ledger,
    ):
        settings = Settings.from_json(ledger.reader.meta(SETTINGS_KEY))
        clock = clock_of(open_backend(held.paths, settings, held.state_id))
        requests = Requests(ledger, RunStore(held.paths), clock, held.state_id)
        ask = requests.cancel if what == "cancel" else requests.rerun
        return asyncio.run(ask(Name(name)))
