"""What a new agent does before its first pass: make the ledger and the live processes agree, touching no machine that
can be told."""

from __future__ import annotations

import json
from dataclasses import replace

from agent.errors import HoldfastError
from agent.hypervisor.api import Found, Hypervisor
from agent.intent import Clock
from state.ids import Name
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance, NameRecord
from state.records import Event, instance_of


async def recover(ledger: Ledger, hypervisor: Hypervisor, clock: Clock) -> None:
    """Record the processes that an agent started and did not live to record; take in those whose rows are lost; end
    those of which nothing can be told."""
    now = clock()
    if any(True for _ in ledger.reader.steps(open_only=True, last=1)):
        with ledger.transaction() as change:
            change.interrupt_open_steps(at=now.wall)
    for found in hypervisor.scan():
        known = ledger.instance(found.uid)
        if known is not None:
            if known.process != found.process:
                with ledger.transaction() as change:
                    change.put_instance(_recorded(known, found))
                    said = "its process was not recorded"
                    change.event(_event(found, known.name, "Found", said, now.wall))
            continue
        lost = _from_record(found)
        if lost is not None:
            with ledger.transaction() as change:
                change.put_instance(lost)
                change.put_name(_name(ledger, lost))
                said = f"taken in as pid {found.process.pid}: the ledger had lost it"
                change.event(_event(found, lost.name, "Recovered", said, now.wall))
            continue
        await _reap(ledger, hypervisor, found, now.wall)


async def _reap(ledger: Ledger, hypervisor: Hypervisor, found: Found, wall: float) -> None:
    said = f"pid {found.process.pid} with uid {found.uid} was ended: nothing tells what it is"
    reason = "Reaped"
    try:
        await hypervisor.stop(found.uid, found.process, 0.0)
        await hypervisor.discard(found.uid)
    except HoldfastError as error:
        reason, said = "ReapFailed", str(error)
    with ledger.transaction() as change:
        change.event(_event(found, None, reason, said, wall))


def _recorded(known: Instance, found: Found) -> Instance:
    phase = known.phase
    if phase in (Phase.PENDING, Phase.STOPPED, Phase.CRASHED):
        phase = Phase.STARTING
    return replace(known, phase=phase, process=found.process)


def _from_record(found: Found) -> Instance | None:
    """The instance as its own file tells it. It runs, so it was started."""
    if found.record is None:
        return None
    try:
        instance = instance_of(json.loads(found.record))
    except (ValueError, KeyError, TypeError):
        return None
    if instance.uid != found.uid:
        return None
    started = instance.started_at or instance.created_at
    return replace(instance, process=found.process, phase=Phase.RUNNING, started_at=started)


def _name(ledger: Ledger, lost: Instance) -> NameRecord:
    known = ledger.name(lost.name)
    return NameRecord(
        lost.name, max(known.generation, lost.generation), lost.ssh_port or known.ssh_port
    )


def _event(found: Found, name: Name | None, reason: str, message: str, wall: float) -> Event:
    return Event(at=wall, reason=reason, message=message, name=name, uid=found.uid, kind="vm")
