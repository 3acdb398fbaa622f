"""Makes the ledger, the live processes and the files of machines agree, touching no machine that can be told: before
the first pass of a new agent, and now and then while it runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property

from agent.errors import HoldfastError
from agent.hypervisor.api import Found, Hypervisor
from agent.intent import Clock
from state.history import Event
from state.ids import Name, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import Instance, NameRecord
from state.records import instance_of
from state.runs import Run
from state.spec.resolved import VmSpec


async def recover(
    ledger: Ledger, hypervisor: Hypervisor, clock: Clock, runs: Iterable[Run]
) -> None:
    """Record the processes that an agent started and did not live to record; take in those whose rows are lost; end
    those of which nothing can be told. `runs` are those whose own files are there: what has ended must not run again
    because the ledger was lost."""
    now = clock()
    _take_in_runs(ledger, runs, now.wall)
    if any(True for _ in ledger.reader.steps(open_only=True, last=1)):
        with ledger.transaction() as change:
            change.interrupt_open_steps(at=now.wall)
    await take_in_strangers(ledger, hypervisor, clock)


async def take_in_strangers(
    ledger: Ledger,
    hypervisor: Hypervisor,
    clock: Clock,
    *,
    busy: Collection[Name] = (),
    told: set[Process] | None = None,
) -> bool:
    """Record, take in, end or clear away what the ledger does not know; whether there was any such thing. `busy` are
    names that a step is at: it records by itself what it does. `told` are processes that were told of before."""
    now, before = clock(), ledger.changes
    told = set() if told is None else told
    places = _Places(ledger)
    unknown = _take_in_running(ledger, hypervisor, places, busy, told, now.wall)
    _take_in_kept(ledger, hypervisor, places, now.wall)
    for found in unknown:
        await _reap(ledger, hypervisor, found, now.wall)
    for uid in hypervisor.leftovers(_known(ledger)):
        if ledger.instance(uid) is None:  # still, while others are cleared away
            await _clear_away(ledger, hypervisor, uid, now.wall)
    return ledger.changes != before


def _known(ledger: Ledger) -> set[Uid]:
    return {one.uid for one in ledger.instances()}


def _take_in_runs(ledger: Ledger, runs: Iterable[Run], wall: float) -> None:
    numbers = {(run.name, run.number): run.id for run in ledger.runs()}
    for run in runs:
        known = ledger.run(run.id)
        if known is None and (run.name, run.number) not in numbers:
            said = f"run {run.number} was taken in from its files: the ledger had lost it"
        elif known is not None and run.phase.ended and not known.phase.ended:
            said = f"run {run.number} had ended ({run.phase.value}): its files tell, the ledger did not"
        else:
            continue
        with ledger.transaction() as change:
            change.remove_run(run.id)
            change.put_run(run)
            change.event(
                Event(at=wall, reason="Recovered", message=said, name=run.name, kind="job")
            )


class _Places:
    """Which generations and SSH ports the ledger knows, looked at once for all that are taken in."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @cached_property
    def generations(self) -> dict[tuple[Name, int], Uid]:
        """Whose each is."""
        return {(one.name, one.generation): one.uid for one in self._ledger.instances()}

    @cached_property
    def ports(self) -> dict[int | None, Name]:
        """To whom each is leased."""
        return {one.ssh_port: one.name for one in self._ledger.names().values()}


def _take_in_running(  # noqa: PLR0913 - a half of the above
    ledger: Ledger,
    hypervisor: Hypervisor,
    places: _Places,
    busy: Collection[Name],
    told: set[Process],
    wall: float,
) -> list[Found]:
    """Record the live processes that can be told; those that cannot."""
    unknown: list[Found] = []
    for found in hypervisor.scan():
        known = ledger.instance(found.uid)
        if known is not None:
            if known.process != found.process and known.name not in busy:
                _see_to(ledger, hypervisor, known, found, told, wall)
            continue
        lost = _from_record(found.uid, found.record)
        if lost is None:
            unknown.append(found)
            continue
        # Where it was never let go, its start was cut off.
        phase = Phase.STARTING if lost.started_at is None else Phase.RUNNING
        alive = replace(lost, process=found.process, phase=phase)
        said = f"taken in as pid {found.process.pid}: the ledger had lost it"
        _take_in(ledger, places, alive, said, wall)
    return unknown


def _take_in_kept(ledger: Ledger, hypervisor: Hypervisor, places: _Places, wall: float) -> None:
    """Record the machines of which only files are left."""
    for kept in hypervisor.kept(_known(ledger)):
        lost = _from_record(kept.uid, kept.record)
        if lost is not None:
            dead = replace(lost, process=None)
            if lost.phase is not Phase.STOPPED and lost.started_at is not None:
                dead = replace(dead, phase=Phase.CRASHED, cause=Cause.EXIT)
            said = "taken in from its files, without a process: the ledger had lost it"
            _take_in(ledger, places, dead, said, wall)


def _take_in(ledger: Ledger, places: _Places, instance: Instance, said: str, wall: float) -> None:
    other = places.generations.setdefault((instance.name, instance.generation), instance.uid)
    if other != instance.uid:
        # One uid belongs to one generation, so that one of the two files was not written by us.
        said = (
            f"{instance.uid} says that it is generation {instance.generation}, which is {other}; "
            f"it is left alone (end it, and remove instances/{instance.uid})"
        )
        with ledger.transaction() as change:
            change.event(_event(instance.uid, instance.name, "RecoverFailed", said, wall))
        return
    known = ledger.name(instance.name)
    ssh_port = known.ssh_port
    # A database from a backup can have leased the port to another since; who waits for it then says so.
    if (
        instance.ssh_port
        and places.ports.setdefault(instance.ssh_port, instance.name) == instance.name
    ):
        ssh_port = instance.ssh_port
    record = NameRecord(instance.name, max(known.generation, instance.generation), ssh_port)
    with ledger.transaction() as change:
        change.put_instance(instance)
        change.put_name(record)
        change.event(_event(instance.uid, instance.name, "Recovered", said, wall))


async def _clear_away(ledger: Ledger, hypervisor: Hypervisor, uid: Uid, wall: float) -> None:
    reason, said = "Cleared", f"what was left of {uid} was removed: no machine could be made of it"
    try:
        await hypervisor.discard(uid)
    except HoldfastError as error:
        reason, said = "ClearFailed", str(error)
    with ledger.transaction() as change:
        change.event(_event(uid, None, reason, said, wall))


async def _reap(ledger: Ledger, hypervisor: Hypervisor, found: Found, wall: float) -> None:
    said = f"pid {found.process.pid} with uid {found.uid} was ended: nothing tells what it is"
    reason = "Reaped"
    try:
        await hypervisor.stop(found.uid, found.process, 0.0)
        await hypervisor.discard(found.uid)
    except HoldfastError as error:
        reason, said = "ReapFailed", str(error)
    with ledger.transaction() as change:
        change.event(_event(found.uid, None, reason, said, wall))


def _see_to(  # noqa: PLR0913 - one case of the above
    ledger: Ledger,
    hypervisor: Hypervisor,
    known: Instance,
    found: Found,
    told: set[Process],
    wall: float,
) -> None:
    """Record a process of an instance that is recorded with none, or with one that is gone."""
    if _may_live(hypervisor, known):
        _tell_double(ledger, known, found, told, wall)
        return
    with ledger.transaction() as change:
        change.put_instance(_recorded(known, found))
        said = "its process was not recorded"
        change.event(_event(found.uid, known.name, "Found", said, wall))


def _may_live(hypervisor: Hypervisor, known: Instance) -> bool:
    """Whether the process that is recorded is not certainly gone: no other takes its place then."""
    try:
        return known.process is not None and hypervisor.alive(known.uid, known.process)
    except OSError:
        return True


def _tell_double(
    ledger: Ledger, known: Instance, found: Found, told: set[Process], wall: float
) -> None:
    """Somebody has started another process with the mark of one that lives. Once it is gone, that is seen to as it
    would be without it."""
    if found.process in told:
        return
    told.add(found.process)
    pid = known.process.pid if known.process else 0
    said = (
        f"pid {found.process.pid} bears the mark of {known.name}, whose process is pid {pid}; it is left alone (end"
        " it, unless you know better)"
    )
    with ledger.transaction() as change:
        change.event(_event(known.uid, known.name, "Double", said, wall))


def _recorded(known: Instance, found: Found) -> Instance:
    phase = known.phase
    if phase in (Phase.PENDING, Phase.STOPPED, Phase.CRASHED):
        phase = Phase.STARTING
    return replace(known, phase=phase, process=found.process)


def _from_record(uid: Uid, record: str | None) -> Instance | None:
    """The instance as its own file tells it, which says that it has run before it runs."""
    try:
        instance = instance_of(json.loads(record or "null"))
        VmSpec.from_canonical(instance.spec)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return instance if instance.uid == uid else None


def _event(uid: Uid, name: Name | None, reason: str, message: str, wall: float) -> Event:
    return Event(at=wall, reason=reason, message=message, name=name, uid=uid, kind="vm")
