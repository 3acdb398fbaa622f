"""`holdfast down`: end and remove everything of a state directory."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from agent.cli.options import option, state_option
from agent.cli.stopping import stop_agent, under_way, unended
from agent.cli.typed import typed
from agent.errors import Blocked, StateUnusable
from agent.paths import StatePaths
from state.records import SETTINGS_KEY
from state.runs import RunPhase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.execute import Executor
    from agent.hypervisor.api import Hypervisor
    from agent.steps import CancelRun, Destroy, Step
    from state.ids import Name, RunId
    from state.ledger import Ledger
    from state.observed import Instance

_BECAUSE = "holdfast down"


@click.command()
@option("--yes", is_flag=True, envvar=None, help="Do not ask.")
@option(
    "--volumes",
    is_flag=True,
    envvar=None,
    help="Images, keys, clones, logs and results too: all that there is.",
)
@state_option
def down(state: StatePaths, yes: bool, volumes: bool) -> int:
    """Destroy every VM of a state directory with its disk, after a yes. A running agent is stopped first, and runs of
    jobs that have not ended are cancelled.

    Images, keys, clones, logs and results are kept for the next time, unless --volumes is said."""
    if not (state.database.exists() or state.instances.exists()):
        click.echo(f"nothing to destroy: there is no state in {state.root}")
        return 0
    if not (yes or _confirmed(f"Destroy {_told(state)} of {state.root}, disks included?")):
        click.echo("nothing was destroyed")
        return 1
    before = under_way(state)
    stop_agent(state, cancel=True, sparing=True)
    return asyncio.run(_destroy(state, before, volumes=volumes))


def _confirmed(question: str) -> bool:
    """The answer. Raises Blocked where there is nobody to give one."""
    try:
        return click.confirm(question)
    except click.Abort as abort:
        click.echo()
        if isinstance(abort.__context__, EOFError):
            raise Blocked(
                "nothing was destroyed: nobody answered", hint="say --yes where nobody can"
            ) from None
        raise


def _told(state: StatePaths) -> str:
    from agent.cli.reading import read

    with suppress(StateUnusable), read(state) as reader:
        names = {one.name for one in reader.instances()} | {run.name for run in unended(reader)}
        return ", ".join(sorted(names)) or "no VM"
    return "whatever is found"


async def _destroy(state: StatePaths, before: set[RunId], *, volumes: bool) -> int:
    """`before`: the runs that had not ended before the agent was told to leave."""
    from agent.cli.compose import clock_of, hold, open_backend, open_ledger
    from agent.config import Settings
    from agent.doing import Doing
    from agent.execute import Executor
    from agent.jobs.store import RunStore
    from agent.recover import recover

    with closing(hold(state.root)) as held:
        held.paths.api_socket.unlink(missing_ok=True)  # one of an agent that was killed
        with closing(open_ledger(held.paths)) as ledger:
            settings = Settings.from_json(ledger.reader.meta(SETTINGS_KEY))
            backend = open_backend(held.paths, settings, held.state_id)
            clock = clock_of(backend)
            await backend.hypervisor.open(lambda _uid, _word: None)
            try:
                store = RunStore(held.paths)
                await recover(ledger, backend.hypervisor, clock, store.recovered())
                executor = Executor(ledger, backend, clock, Doing(), store)
                cancellations = _cancellations(ledger)
                await _all(executor, cancellations)
                asked = before | {one.run for one in cancellations}
                cancelled = [
                    run.name
                    for run in ledger.runs()
                    if run.id in asked and run.phase is RunPhase.CANCELLED
                ]
                steps = _steps(ledger)
                await _all(executor, steps)
                left = _left(ledger, backend.hypervisor)
            finally:
                await backend.hypervisor.close()
            if not volumes:
                _forget_findings(ledger)
        if not left:
            with suppress(OSError):
                held.paths.sockets.rmdir()  # what else lies there is not ours
        if volumes and not left:
            _remove_everything(held.paths)
            held.remove()
    for one in left:
        told = f"holdfast: {one} could not be destroyed; see `holdfast events`"
        click.echo(typed(told), err=True)
    if cancelled:
        click.echo(f"cancelled: {', '.join(cancelled)}")
    if not left:
        names = ", ".join(step.name for step in steps)
        click.echo(f"destroyed: {names or 'there was no VM'}")
    return 1 if left else 0


async def _all(executor: Executor, steps: Sequence[Step]) -> None:
    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(executor.perform(step, "down"))


def _cancellations(ledger: Ledger) -> list[CancelRun]:
    from agent.steps import CancelRun

    runs = [run for run in ledger.runs() if not run.phase.ended]
    with ledger.transaction() as change:
        for run in runs:
            # By hand: no document brings it back.
            change.put_run(replace(run, cancel=run.cancel or _BECAUSE))
    return [
        CancelRun(name=run.name, because=_BECAUSE, source=run.source, run=run.id) for run in runs
    ]


def _steps(ledger: Ledger) -> list[Destroy]:
    """One for each name that has an instance or a port; what else is remembered of a name is nothing to destroy."""
    from agent.parting import grace_of
    from agent.steps import Destroy

    own: dict[Name, list[Instance]] = {
        name: [] for name, record in ledger.names().items() if record.ssh_port is not None
    }
    for instance in sorted(ledger.instances(), key=lambda one: one.generation):
        own.setdefault(instance.name, []).append(instance)
    return [
        Destroy(
            name=name,
            because=_BECAUSE,
            kind=instances[-1].kind if instances else "vm",
            uids=tuple(one.uid for one in instances),
            grace=max(map(grace_of, instances), default=0.0),
        )
        for name, instances in sorted(own.items())
    ]


def _left(ledger: Ledger, hypervisor: Hypervisor) -> list[str]:
    """What is still there, by name; a process of which nothing is recorded, by its pid."""
    names = {instance.name for instance in ledger.instances()}
    strangers = {
        f"the QEMU with pid {found.process.pid}"
        for found in hypervisor.scan()
        if ledger.instance(found.uid) is None
    }
    return [*sorted(names), *sorted(strangers)]


def _forget_findings(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        for key in ledger.reader.findings():
            change.remove_finding(key)


def _remove_everything(paths: StatePaths) -> None:
    import shutil

    gone = (paths.images, paths.keys, paths.instances, paths.runs, paths.git, paths.sockets)
    for directory in gone:
        shutil.rmtree(directory, ignore_errors=True)
    # With what belongs to it, and what was set aside.
    for database in (paths.database, paths.metrics):
        for file in paths.root.glob(f"{database.name}*"):
            file.unlink()
    for file in (paths.ballast, paths.token, paths.identity):
        file.unlink(missing_ok=True)
