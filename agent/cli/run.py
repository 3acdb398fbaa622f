"""`holdfast run`: the agent, from its options to its exit status."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.accelerator import choose_accelerator
from agent.cli.leaving import Leaving
from agent.cli.measuring import measuring, measuring_options
from agent.cli.options import option, state_option
from agent.cli.reading import in_memory, of_the_ledger, still_runs
from agent.cli.settings import said_settings, source_options
from agent.config import Settings
from agent.errors import StateUnusable
from agent.paths import StatePaths
from agent.tuning import be_patient, open_many
from state.records import SETTINGS_KEY, LedgerUnreadable

if TYPE_CHECKING:
    import socket

    from agent.cli.fencing import Kept
    from agent.cli.showing import Showing
    from agent.cli.telling import Task, Telling
    from agent.loop import Agent
    from agent.notify import Manager
    from agent.record import Pass
    from agent.statedir import StateDirectory
    from state.ledger import Ledger

T = TypeVar("T")


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
@option(
    "--listen",
    metavar="ADDR:PORT",
    help="Answer over HTTP there: a page, /metrics, /healthz, /readyz, /api/v1. What changes something takes the token"
    " that lies in the state directory.",
)
@option(
    "--loopback",
    type=click.Choice(["fence", "open"]),
    default="fence",
    show_default=True,
    help="fence: guests reach no address of this host, where root and nftables allow that; open: they may, and a fence"
    " that an agent of this state directory has put up is taken away.",
)
@measuring_options
@source_options
@state_option
def run(
    state: StatePaths,
    once: bool,
    interval: float,
    listen: str | None,
    **options: Any,
) -> int:
    """The agent: keep the VMs of this host as the documents say, and run their jobs, until it is told to stop.

    VMs run on when it stops, and the next agent adopts them. Running jobs get the drain timeout to end; told a second
    time to stop, it ends them at once."""
    be_patient()  # with all that is imported from here on, too
    open_many()
    from agent import log
    from agent.cli import fencing
    from agent.cli.compose import hold, open_ledger, origin_of
    from agent.cli.showing import Showing
    from agent.cli.telling import Telling
    from agent.notify import Manager
    from agent.web import control

    manager = Manager.of(os.environ, os.getpid())  # before anything has children
    measured = measuring(options)
    settings = said_settings(state, options)
    origin_of(settings)
    showing = Showing(state) if once else None
    with ExitStack() as stack:
        held = stack.enter_context(closing(hold(state.root)))
        if showing is not None:
            stack.enter_context(showing.on_screen())
        log.configure()
        listener = stack.enter_context(_listening(listen)) if listen else None
        telling = Telling(held.paths, settings.host_name(), interval, measured, listener)
        on_event = _each(log.event_logger(), telling.tally.happened)
        on_run = _each(telling.tally.ran, *([showing.told] if showing is not None else []))
        ledger = stack.enter_context(closing(open_ledger(held.paths, on_event, on_run)))
        stack.enter_context(_recording())
        os.umask(0o077)
        api = stack.enter_context(control.listening(held.paths.api_socket))
        with ledger.transaction() as change:
            change.put_meta(SETTINGS_KEY, settings.to_json())
        fence = fencing.begin(ledger, settings)
        if showing is not None:
            for under_way in ledger.runs():
                if not under_way.phase.ended:
                    showing.told(under_way)
        return _run(ledger, held, settings, Beside(api, showing, telling, manager, fence), interval)


def _listening(where: str) -> AbstractContextManager[socket.socket]:
    from agent.web import public

    return public.listening(where)


def _each(*told: Callable[[T], None]) -> Callable[[T], None]:
    """Tells all of them."""

    def tell(what: T) -> None:
        for one in told:
            one(what)

    return tell


_LOOK_AFTER = 5.0
"""Seconds from one look at the lock to the next."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What goes on beside the loop: the API on a listening socket, the show, which is `run --once`'s, and what is told
    of it all, and to the service manager, and the fence around guests where one is to be kept."""

    api: socket.socket
    showing: Showing | None
    telling: Telling
    manager: Manager
    fence: Kept | None


def _run(
    ledger: Ledger, held: StateDirectory, settings: Settings, beside: Beside, interval: float
) -> int:
    from agent import log
    from agent.cli.compose import (
        clock_of,
        fetcher_of,
        open_backend,
        open_source,
        policy_of,
        publisher_of,
        secrets_of,
    )
    from agent.jobs.store import RunStore
    from agent.loop import Agent, World
    from agent.settled import amiss
    from agent.web.control import Control, serve

    once = beside.showing is not None
    found: list[list[str]] = []

    async def main() -> None:
        backend = beside.telling.counted(open_backend(held.paths, settings, held.state_id))
        leaving = Leaving()
        accelerator = await leaving.unless_told(choose_accelerator(ledger, settings))
        if accelerator is None:
            return
        source = open_source(settings, held.paths)
        store = RunStore(held.paths, source.attachment, secrets_of(settings))

        clock = clock_of(backend)
        policy = policy_of(settings, held.state_id, accelerator)
        policy = replace(policy, began=clock().boottime)
        publisher = publisher_of(settings, held.paths, ledger, clock)

        def look(done: Pass) -> None:
            beside.telling.passed(done, clock())
            if publisher is not None and not done.desired.source.pending:
                publisher.look()
            wrong = amiss(done.desired, done.observed, done.plan) if once else None
            if wrong is not None and not found:
                found.append(wrong)
                agent.stop()

        world = World(source, ledger, backend, clock, store)
        agent = Agent(
            world,
            policy,
            interval=interval,
            on_pass=look,
            on_ready=beside.telling.tally.became_ready,
            manager=beside.manager,
        )
        leaving.answer(_said(lambda: agent.stop(sparing=leaving.sparing)))
        _tell_start(held.paths, settings, accelerator)
        if beside.telling.listener is not None:
            address, port, *_ = beside.telling.listener.getsockname()
            where = f"[{address}]" if ":" in address else address
            log.say(
                "Listening",
                f"http://{where}:{port}/; a change takes the token in {held.paths.token}",
            )
        fetcher = fetcher_of(settings, source, agent.wake, interval)
        agent.operator.repository = fetcher
        tasks: list[Task] = [one.run for one in (fetcher, publisher) if one is not None]
        control = Control(agent.requests, agent.operator)
        tasks += beside.telling.tasks(ledger, backend, clock, control)
        tasks.append(partial(serve, beside.api, control))
        tasks.append(partial(_keep_telling, held))
        if beside.fence is not None:
            tasks.append(partial(beside.fence.keep, interval))
        await agent.run(watching=_watch(agent, settings, beside, tasks))
        if once and publisher is not None:
            await publisher.publish()  # what it leaves behind
        for one in found[0] if found else ():
            log.say("NotAsWanted", one)
        log.say("Left", _run_on(ledger), pid=os.getpid())

    asyncio.run(main())
    return 0 if not once or found == [[]] else 1


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


def _said(stop: Callable[[], None]) -> Callable[[], None]:
    """`stop`, which the first time says so."""
    from agent import log

    said = False

    def leave() -> None:
        nonlocal said
        if not said:
            log.say("Leaving", "told to; what is under way is finished first", pid=os.getpid())
        said = True
        stop()

    return leave


def _run_on(ledger: Ledger) -> str:
    if in_memory(ledger.reader):
        return "its VMs existed in its memory and ended with it"
    number = sum(map(still_runs, ledger.instances()))
    return f"{number} VMs run on" if number > 1 else f"{'one' if number else 'no'} VM runs on"


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


async def _keep_telling(held: StateDirectory) -> None:
    """Make what tells others who holds the state directory anew where somebody has removed it."""
    from agent import log

    while True:
        await asyncio.sleep(_LOOK_AFTER)
        try:
            if held.tell_again():
                log.say("LockRemade", f"somebody had removed {held.paths.lock}")
        except OSError as error:
            log.say("LockFailed", f"{held.paths.lock} cannot be made anew: {error.strerror}")


async def _watch(agent: Agent, settings: Settings, beside: Beside, tasks: list[Task]) -> None:
    from agent.watch import watch

    async with asyncio.TaskGroup() as group:
        if beside.showing is not None:
            group.create_task(beside.showing.refresh())
        for task in tasks:
            group.create_task(task())
        if settings.desired is not None:
            group.create_task(watch(settings.desired, agent.wake))
        if settings.images is not None:
            group.create_task(watch(settings.images.parent, agent.wake, recursive=False))
