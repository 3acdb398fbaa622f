"""`holdfast stop`: let the agent leave, and power its VMs down where that is asked for, be there an agent or not."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING

import click

from agent.cli.options import option, state_option
from agent.cli.stopping import stop_agent
from agent.cli.typed import typed
from agent.errors import StateUnusable
from agent.paths import StatePaths
from state.records import SETTINGS_KEY

if TYPE_CHECKING:
    from state.ids import Name


@click.command()
@option(
    "--on-stop",
    type=click.Choice(["leave", "shutdown"]),
    help="What becomes of VMs; shutdown: they are powered down.  [default: what the agent was told]",
)
@state_option
def stop(state: StatePaths, on_stop: str | None) -> int:
    """Let the agent leave, and wait until it has. Running jobs get its drain timeout to end.

    VMs run on, unless the agent was told otherwise or --on-stop shutdown is said: then they are powered down, be
    there an agent or not, and the next one starts them again from their own disks. Status 1 when one could not be.
    With --on-stop leave they run on whatever the agent was told."""
    _check_made(state)
    left = stop_agent(state, cancel=False, sparing=on_stop == "leave")
    click.echo("the agent has left" if left else "no agent was running")
    return asyncio.run(_power_down(state)) if on_stop == "shutdown" else 0


def _check_made(state: StatePaths) -> None:
    """Raises StateUnusable where there is no state directory. A ledger that cannot be read is no reason to leave VMs
    to a host that goes down: another is filled from their own files."""
    tried = f"reading the state directory {state.root}"
    hint = "say --state DIR, or start an agent with `holdfast run`"
    try:
        inside = os.listdir(state.root)
    except OSError as error:
        raise StateUnusable(f"{tried}: {error.strerror}", hint=hint) from error
    if not {state.database.name, state.instances.name} & set(inside):
        raise StateUnusable(f"{tried}: no agent has made it", hint=hint)


async def _power_down(state: StatePaths) -> int:
    from agent.cli.compose import clock_of, hold, open_backend, open_ledger
    from agent.config import Settings
    from agent.doing import Doing
    from agent.execute import Executor
    from agent.jobs.store import RunStore
    from agent.parting import power_down
    from agent.recover import recover

    with closing(hold(state.root)) as held, closing(open_ledger(held.paths)) as ledger:
        settings = Settings.from_json(ledger.reader.meta(SETTINGS_KEY))
        backend = open_backend(held.paths, settings, held.state_id)
        clock, store = clock_of(backend), RunStore(held.paths)
        await backend.hypervisor.open(lambda _uid, _word: None)
        try:
            await recover(ledger, backend.hypervisor, clock, store.recovered())
            executor = Executor(ledger, backend, clock, Doing(), store)
            left = await power_down(ledger, backend.hypervisor, executor, clock)
        finally:
            await backend.hypervisor.close()
    return _told(left)


def _told(left: list[Name]) -> int:
    for name in left:
        click.echo(
            typed(f"holdfast: {name} could not be powered down; see `holdfast events`"), err=True
        )
    if not left:
        click.echo("no VM runs")
    return 1 if left else 0
