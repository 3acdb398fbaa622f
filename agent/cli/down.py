"""`holdfast down`: end and remove everything of a state directory."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import click

from agent.cli.options import option, state_option
from agent.errors import StateInUse, StateUnusable
from agent.paths import StatePaths
from state.records import SETTINGS_KEY

_AGENT_LEAVES = 30.0
"""Seconds that a running agent gets to finish its steps and leave, beside those that its slowest guest gets."""


@click.command()
@option("--yes", is_flag=True, envvar=None, help="Do not ask.")
@option("--volumes", is_flag=True, envvar=None, help="Images and keys too: all that there is.")
@state_option
def down(state: StatePaths, yes: bool, volumes: bool) -> int:
    """Destroy every VM of a state directory with its disk, after a yes. A running agent is stopped first.

    Images and keys are kept for the next time, unless --volumes is said."""
    if not state.database.exists():
        click.echo(f"nothing to destroy: there is no state in {state.root}")
        return 0
    if not yes:
        click.confirm(f"Destroy {_told(state)} of {state.root}, disks included?", abort=True)
    _stop_agent(state)
    return asyncio.run(_destroy(state, volumes=volumes))


def _told(state: StatePaths) -> str:
    from agent.cli.reading import open_reader

    try:
        reader = open_reader(state)
    except StateUnusable:
        return "whatever is found"
    try:
        return ", ".join(sorted({one.name for one in reader.instances()})) or "no VM"
    finally:
        reader.close()


def _stop_agent(state: StatePaths) -> None:
    """Ask the agent that holds the state directory to leave, and wait until it has."""
    from agent.statedir import holder

    pid = holder(state)
    if pid is None:
        return
    try:
        agent = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The pid may be another's by now; only if it still holds the lock is it the one that was meant.
        if holder(state) != pid:
            return
        signal.pidfd_send_signal(agent, signal.SIGTERM)
        import select

        seconds = patience(state)
        if not select.select([agent], [], [], seconds)[0]:
            raise StateInUse(
                f"the agent with pid {pid} did not leave within {seconds:.0f} s",
                hint="see what it is doing with `holdfast events`, end it, and try again",
            )
    finally:
        os.close(agent)


def patience(state: StatePaths) -> float:
    """Seconds to wait for the agent: it may be about to end a guest, which is given its `stop_timeout`."""
    from agent.cli.reading import open_reader
    from state.spec.resolved import VmSpec

    try:
        reader = open_reader(state)
    except StateUnusable:
        return _AGENT_LEAVES
    try:
        specs = [VmSpec.from_canonical(one.spec) for one in reader.instances()]
    finally:
        reader.close()
    return _AGENT_LEAVES + max((spec.stop_timeout for spec in specs), default=0.0)


async def _destroy(state: StatePaths, *, volumes: bool) -> int:
    from agent.cli.compose import clock_of, open_backend, open_ledger
    from agent.config import Settings
    from agent.execute import Executor
    from agent.observe import Doing
    from agent.recover import recover
    from agent.statedir import StateDirectory
    from agent.steps import Destroy
    from state.ids import Name, Uid
    from state.spec.resolved import VmSpec

    held = StateDirectory(state.root)
    ledger = open_ledger(held.paths)
    settings = Settings.from_json(ledger.reader.meta(SETTINGS_KEY))
    backend = open_backend(held.paths, settings, held.state_id)
    clock = clock_of(backend)
    await backend.hypervisor.open(lambda _uid, _word: None)
    try:
        await recover(ledger, backend.hypervisor, clock)
        executor = Executor(ledger, backend, clock, Doing())
        uids: dict[Name, list[Uid]] = {name: [] for name in ledger.names()}
        grace = 0.0
        for instance in sorted(ledger.instances(), key=lambda one: one.generation):
            uids.setdefault(instance.name, []).append(instance.uid)
            grace = max(grace, VmSpec.from_canonical(instance.spec).stop_timeout)
        async with asyncio.TaskGroup() as group:
            for name, own in uids.items():
                step = Destroy(name=name, because="holdfast down", uids=tuple(own), grace=grace)
                group.create_task(executor.perform(step, "down"))
        left = sorted({instance.name for instance in ledger.instances()})
    finally:
        await backend.hypervisor.close()
        if not volumes:
            _forget_findings(ledger)
        ledger.close()
        if volumes and not ledger.instances():
            _remove_everything(held.paths)
        held.close()
    for name in left:
        click.echo(f"holdfast: {name} could not be destroyed; see `holdfast events`", err=True)
    if not left:
        click.echo(f"destroyed: {', '.join(sorted(uids)) or 'there was no VM'}")
    return 1 if left else 0


def _forget_findings(ledger: Any) -> None:
    with ledger.transaction() as change:
        for key in ledger.reader.findings():
            change.remove_finding(key)


def _remove_everything(paths: StatePaths) -> None:
    import shutil

    for directory in (paths.images, paths.keys, paths.instances, paths.sockets):
        shutil.rmtree(directory, ignore_errors=True)
    for file in ("", "-wal", "-shm"):
        paths.database.with_name(paths.database.name + file).unlink(missing_ok=True)
    paths.identity.unlink(missing_ok=True)
