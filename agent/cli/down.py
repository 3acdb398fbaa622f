"""`holdfast down`: end and remove everything of a state directory."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import click

from agent.cli.options import option, state_option
from agent.cli.typed import typed
from agent.errors import Blocked, HoldfastError, StateInUse, StateUnusable
from agent.paths import StatePaths
from state.records import SETTINGS_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.execute import Executor
    from agent.hypervisor.api import Hypervisor
    from agent.steps import CancelRun, Destroy, Step
    from state.ids import Name
    from state.ledger import Ledger
    from state.observed import Instance
    from state.records import Reader
    from state.runs import Run

_AGENT_LEAVES = 30.0
"""Seconds that a running agent gets to finish its steps and leave, beside those that its slowest guest gets."""
_REMIND = 0.5


@click.command()
@option("--yes", is_flag=True, envvar=None, help="Do not ask.")
@option(
    "--volumes",
    is_flag=True,
    envvar=None,
    help="Images, keys, logs and results too: all that there is.",
)
@state_option
def down(state: StatePaths, yes: bool, volumes: bool) -> int:
    """Destroy every VM of a state directory with its disk, after a yes. A running agent is stopped first, and runs of
    jobs that have not ended are cancelled.

    Images, keys, logs and results are kept for the next time, unless --volumes is said."""
    if not (state.database.exists() or state.instances.exists()):
        click.echo(f"nothing to destroy: there is no state in {state.root}")
        return 0
    if not (yes or _confirmed(f"Destroy {_told(state)} of {state.root}, disks included?")):
        click.echo("nothing was destroyed")
        return 1
    _stop_agent(state)
    return asyncio.run(_destroy(state, volumes=volumes))


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
    from agent.cli.reading import open_reader

    try:
        reader = open_reader(state)
    except StateUnusable:
        return "whatever is found"
    try:
        names = {one.name for one in reader.instances()} | {run.name for run in _unended(reader)}
        return ", ".join(sorted(names)) or "no VM"
    finally:
        reader.close()


def _unended(reader: Reader) -> list[Run]:
    return [run for run in reader.runs() if not run.phase.ended]


def _cancel_runs(state: StatePaths) -> None:
    """Ask the running agent to cancel what it runs, so that this is what the results say. One that does not answer ends
    the runs all the same, as it leaves."""
    from agent.cli.reading import open_reader
    from agent.web.client import ask_of_job

    with suppress(HoldfastError), closing(open_reader(state)) as reader:
        for run in _unended(reader):
            with suppress(Blocked):
                ask_of_job(state.api_socket, run.name, "cancel")


def _stop_agent(state: StatePaths) -> None:
    """Ask the agent that holds the state directory to leave, and wait until it has."""
    from agent.statedir import UNSEEN, holder

    pid = holder(state)
    if pid is None:
        return
    if pid == UNSEEN:
        raise StateInUse(
            f"the agent of {state.root} cannot be stopped from here: its process cannot be seen",
            hint="stop it where it runs, perhaps in another container, and try again",
        )
    try:
        agent = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The pid may be another's by now; only if it still holds the lock is it the one that was meant.
        if holder(state) != pid:
            return
        _cancel_runs(state)
        seconds = patience(state)
        if not _left_in_time(agent, seconds, state):
            raise StateInUse(
                f"the agent with pid {pid} did not leave within {seconds:.0f} s",
                hint="see what it is doing with `holdfast events`, end it, and try again",
            )
    finally:
        os.close(agent)


def _left_in_time(agent: int, seconds: float, state: StatePaths) -> bool:
    """Tell the process behind a pidfd to leave, and again while it has running jobs: told twice, it gives them no more
    time."""
    import select

    end, told = time.monotonic() + seconds, False
    while (left := end - time.monotonic()) > 0:
        if not told or _jobs_run(state):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(agent, signal.SIGTERM)
            told = True
        if select.select([agent], [], [], min(left, _REMIND))[0]:
            return True
    return False


def _jobs_run(state: StatePaths) -> bool:
    from agent.cli.reading import open_reader

    with suppress(HoldfastError), closing(open_reader(state)) as reader:
        return any(run.phase.active for run in _unended(reader))
    return False


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
    from agent.doing import Doing
    from agent.execute import Executor
    from agent.jobs.store import RunStore
    from agent.recover import recover
    from agent.statedir import StateDirectory

    with closing(StateDirectory(state.root)) as held:
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
                unended = _cancellations(ledger)
                await _all(executor, unended)
                cancelled = [one.name for one in unended if _has_ended(ledger, one)]
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

    return [
        CancelRun(name=run.name, because="holdfast down", source=run.source, run=run.id)
        for run in ledger.runs()
        if not run.phase.ended
    ]


def _has_ended(ledger: Ledger, step: CancelRun) -> bool:
    run = ledger.run(step.run)
    return run is not None and run.phase.ended


def _steps(ledger: Ledger) -> list[Destroy]:
    """One for each name that has an instance or a port; what else is remembered of a name is nothing to destroy."""
    from agent.steps import Destroy
    from state.spec.resolved import VmSpec

    own: dict[Name, list[Instance]] = {
        name: [] for name, record in ledger.names().items() if record.ssh_port is not None
    }
    for instance in sorted(ledger.instances(), key=lambda one: one.generation):
        own.setdefault(instance.name, []).append(instance)
    return [
        Destroy(
            name=name,
            because="holdfast down",
            kind=instances[-1].kind if instances else "vm",
            uids=tuple(one.uid for one in instances),
            grace=max(
                (VmSpec.from_canonical(one.spec).stop_timeout for one in instances), default=0.0
            ),
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

    for directory in (paths.images, paths.keys, paths.instances, paths.runs, paths.sockets):
        shutil.rmtree(directory, ignore_errors=True)
    for file in ("", "-wal", "-shm"):
        paths.database.with_name(paths.database.name + file).unlink(missing_ok=True)
    paths.identity.unlink(missing_ok=True)
