"""`holdfast run`: the agent, from its options to its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import option, state_option
from agent.cli.reading import in_memory, of_the_ledger, still_runs
from agent.cli.settings import said_settings, source_options
from agent.config import Settings
from agent.errors import StateUnusable
from agent.paths import StatePaths
from state.records import ACCELERATOR_KEY, SETTINGS_KEY, LedgerUnreadable

if TYPE_CHECKING:
    import socket

    from agent.cli.showing import Showing
    from agent.loop import Agent
    from agent.record import Pass
    from state.ledger import Ledger


@click.command()
@option(
    "--once",
    is_flag=True,
    envvar=None,
    help="Leave as soon as every VM is ready or has failed and every job has ended; status 1 if one has failed.",
)
@option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Look again after so long, although nothing has changed.",
)
@source_options
@state_option
def run(state: StatePaths, once: bool, interval: float, **options: Any) -> int:
    """The agent: keep the VMs of this host as the documents say, and run their jobs, until it is told to stop.

    VMs run on when it stops, and the next agent adopts them. Running jobs get the drain timeout to end; told a second
    time to stop, it ends them at once."""
    from agent import log
    from agent.cli.compose import open_ledger, origin_of
    from agent.cli.showing import Showing
    from agent.statedir import StateDirectory
    from agent.web import control

    settings = said_settings(state, options)
    origin_of(settings)
    showing = Showing(state) if once else None
    with ExitStack() as stack:
        held = stack.enter_context(closing(StateDirectory(state.root)))
        if showing is not None:
            stack.enter_context(showing.on_screen())
        log.configure()
        on_run = showing.told if showing is not None else None
        ledger = stack.enter_context(closing(open_ledger(held.paths, log.event_logger(), on_run)))
        stack.enter_context(_recording())
        os.umask(0o077)
        api = stack.enter_context(control.listening(held.paths.api_socket))
        with ledger.transaction() as change:
            change.put_meta(SETTINGS_KEY, settings.to_json())
        if showing is not None:
            for under_way in ledger.runs():
                if not under_way.phase.ended:
                    showing.told(under_way)
        return _run(ledger, held, settings, Beside(api, showing), interval)


Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Beside:
    """What goes on beside the loop: the API on a listening socket, and the show, which is `run --once`'s."""

    api: socket.socket
    showing: Showing | None


def _run(ledger: Ledger, held: Any, settings: Settings, beside: Beside, interval: float) -> int:
    from agent import collector, log
    from agent.cli.compose import (
        clock_of,
        fetcher_of,
        open_backend,
        open_source,
        policy_of,
        publisher_of,
    )
    from agent.jobs.store import RunStore
    from agent.loop import Agent, World
    from agent.settled import settled

    collector.be_patient()
    once = beside.showing is not None
    well: list[bool] = []

    async def main() -> None:
        backend = open_backend(held.paths, settings, held.state_id)
        accelerator = await _unless_told(choose_accelerator(ledger, settings))
        if accelerator is None:
            return
        policy = policy_of(settings, held.state_id, accelerator)
        source = open_source(settings, held.paths)
        store = RunStore(held.paths, source.attachment)

        clock = clock_of(backend)
        publisher = publisher_of(settings, held.paths, ledger, clock)

        def look(done: Pass) -> None:
            if publisher is not None and not done.desired.source.pending:
                publisher.look()
            answer = settled(done.desired, done.observed, done.plan) if once else None
            if answer is not None and not well:
                well.append(answer)
                agent.stop()

        world = World(source, ledger, backend, clock, store)
        agent = Agent(world, policy, interval=interval, on_pass=look)
        _when_told(_leaving(agent))
        _tell_start(held.paths, settings, accelerator)
        fetcher = fetcher_of(settings, source, agent.wake, interval)
        agent.operator.repository = fetcher
        tasks = [one.run for one in (fetcher, publisher) if one is not None]
        await agent.run(watching=_watch(agent, settings, beside, tasks))
        if once and publisher is not None:
            await publisher.publish()  # what it leaves behind
        log.say("Left", _run_on(ledger), pid=os.getpid())

    asyncio.run(main())
    return 0 if not once or well == [True] else 1


def _tell_start(state: StatePaths, settings: Settings, accelerator: str) -> None:
    from agent import log
    from agent.cli.compose import origin_of

    unreal = settings.hypervisor == "memory"
    log.say(
        "Started",
        f"keeps {state.root} as {origin_of(settings) or settings.desired} says",
        pid=os.getpid(),
        hypervisor=settings.hypervisor or "qemu",
        accelerator=None if unreal else accelerator,
    )


def _leaving(agent: Agent) -> Callable[[], None]:
    """What has the agent leave; the first time it says so."""
    from agent import log

    told = False

    def leave() -> None:
        nonlocal told
        if not told:
            log.say("Leaving", "told to; what is under way is finished first", pid=os.getpid())
        told = True
        agent.stop()

    return leave


def _run_on(ledger: Ledger) -> str:
    if in_memory(ledger.reader):
        return "its VMs existed in its memory and ended with it"
    number = sum(map(still_runs, ledger.instances()))
    return f"{number} VMs run on" if number > 1 else f"{'one' if number else 'no'} VM runs on"


async def _unless_told(doing: Coroutine[Any, Any, str]) -> str | None:
    """What it returns; None where the agent was told to leave, after it was broken off and has cleaned up."""
    task = asyncio.ensure_future(doing)
    told = asyncio.Event()

    def leave() -> None:
        told.set()
        task.cancel()

    _when_told(leave)
    await asyncio.wait((task,))
    return None if told.is_set() else task.result()


def _when_told(leave: Callable[[], None]) -> None:
    """What the signals do that ask an agent to leave."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave)


@contextmanager
def _recording() -> Iterator[None]:
    """What cannot be recorded must not be done: VMs run on, and the next agent goes on from what is recorded."""
    try:
        yield
    except (LedgerUnreadable, BaseExceptionGroup) as error:
        if (lost := of_the_ledger(error)) is None:
            raise
        raise StateUnusable(
            f"the agent left, for {lost}",
            hint="VMs run on; see to the disk of the state directory and start the agent again",
        ) from error


async def _watch(agent: Agent, settings: Settings, beside: Beside, tasks: list[Task]) -> None:
    from agent.wake import watch
    from agent.web import control

    async with asyncio.TaskGroup() as group:
        group.create_task(control.serve(beside.api, agent.requests, agent.operator))
        if beside.showing is not None:
            group.create_task(beside.showing.refresh())
        for task in tasks:
            group.create_task(task())
        if settings.desired is not None:
            group.create_task(watch(settings.desired, agent.wake))
        if settings.images is not None:
            group.create_task(watch(settings.images.parent, agent.wake, recursive=False))


async def choose_accelerator(ledger: Ledger, settings: Settings) -> str:
    """What runs the guests: as the operator says, or as measured once for each boot and each build of QEMU."""
    from agent.cli.compose import DEFAULT_QEMU

    if settings.hypervisor == "memory":
        return "tcg"
    if settings.accel in ("kvm", "tcg"):
        return settings.accel
    from agent.hypervisor.qemu import accel

    qemu = settings.qemu or DEFAULT_QEMU
    build = await accel.build_of(qemu)
    boot_id = accel.boot_id()
    known = json.loads(ledger.reader.meta(ACCELERATOR_KEY) or "{}")
    if known.get("boot_id") == boot_id and known.get("build") == build:
        return str(known["choice"])
    evidence = await accel.measure(qemu)
    with ledger.transaction() as change:
        change.put_meta(ACCELERATOR_KEY, json.dumps(asdict(evidence)))
    return evidence.choice
