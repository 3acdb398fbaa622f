"""Ledger rows and live processes -> Observed: alive, gone or unknown, never a guess. It changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Protocol

from agent.doing import Doing
from agent.hypervisor.api import Backend, Hypervisor, needed
from agent.jobs.plan import may_begin
from agent.leases import forwards_of
from agent.unmoved import Decided
from state.desired import Desired, WantedVm
from state.ids import Name, Uid
from state.lifecycle import Cause, Phase
from state.observed import Instance, Listener, NameRecord, Observed, Retry, Seen, Verdict
from state.records import APPROVED_KEY, SUSPENDED_KEY
from state.runs import Run
from state.spec.resolved import VmSpec


class Records(Protocol):
    """What is recorded: a Ledger, or a Reader of one that another process writes."""

    def instances(self) -> list[Instance]: ...
    def names(self) -> dict[Name, NameRecord]: ...
    def retries(self) -> dict[str, Retry]: ...
    def runs(self) -> list[Run]: ...
    def meta(self, key: str) -> str | None: ...


class NoRecords:
    """Of a state directory that no agent has run on yet."""

    def instances(self) -> list[Instance]:
        return []

    def names(self) -> dict[Name, NameRecord]:
        return {}

    def retries(self) -> dict[str, Retry]:
        return {}

    def runs(self) -> list[Run]:
        return []

    def meta(self, key: str) -> str | None:
        return None


async def observe(
    records: Records,
    backend: Backend,
    desired: Desired,
    doing: Doing,
    before: Decided | None = None,
) -> Observed:
    """The world at this moment: images are looked for first, and the rest is of one moment after that. `before` saves
    work where all is as the last pass found it: who listens on the host is then of no account, and not looked for."""
    wanted = desired.needed_images
    # Of before the look: what arrives during it is seen by the next pass, and not asked for again by this one.
    fetching = dict(doing.images)
    images = dict(await backend.images.look(wanted))
    while True:
        hypervisor, boot_id = backend.hypervisor, backend.hypervisor.boot_id
        seen = tuple(_look(one, hypervisor, boot_id) for one in records.instances())
        # A name that is held goes on by what it was last given, also when it never came to run.
        more = {
            one.instance.vm_spec.image for one in seen if one.instance.started_at is None
        } - wanted
        if not more:
            break
        images |= await backend.images.look(more)
        wanted = wanted | more
    rests = before is not None and before.rests(desired, seen)
    runs = records.runs()
    busy = dict(doing.names)
    waiting = any(not run.phase.ended for run in runs) or bool(desired.jobs)
    return Observed(
        instances=seen,
        names=records.names(),
        images=images,
        listeners=() if rests else _listeners(desired, seen, runs, busy, backend),
        busy=busy,
        given=dict(doing.given),
        fetching=fetching,
        retries=records.retries(),
        runs=tuple(runs),
        free_memory=backend.host.free_memory(_promised(seen)) if waiting else None,
        free_disk=backend.host.free_disk(),
        suspended=bool(records.meta(SUSPENDED_KEY)),
        approved=frozenset(map(Uid, json.loads(records.meta(APPROVED_KEY) or "[]"))),
    )


def _promised(seen: tuple[Seen, ...]) -> dict[int, int]:
    """For each live guest of a job, by pid, the bytes that it may come to take. What vms may use is for their
    documents' author to add up: they are there whether there is room for jobs or not."""
    return {
        one.instance.process.pid: needed(one.instance.vm_spec.memory, one.instance.accelerator)
        for one in seen
        if one.instance.kind == "job"
        and one.verdict is Verdict.ALIVE
        and one.instance.process is not None
    }


def _look(instance: Instance, hypervisor: Hypervisor, boot_id: str) -> Seen:
    uid = instance.uid
    verdict = _verdict(instance, hypervisor, boot_id)
    attached = verdict is Verdict.ALIVE and hypervisor.attached(uid)
    return Seen(instance, verdict, hypervisor.view(uid), hypervisor.exit_of(uid), attached)


def _verdict(instance: Instance, hypervisor: Hypervisor, boot_id: str) -> Verdict:
    process = instance.process
    if process is None or process.boot_id != boot_id:
        return Verdict.GONE
    try:
        alive = hypervisor.alive(instance.uid, process)
    except OSError:
        return Verdict.UNKNOWN
    return Verdict.ALIVE if alive else Verdict.GONE


def _listeners(
    desired: Desired,
    seen: tuple[Seen, ...],
    runs: list[Run],
    busy: Collection[Name],
    backend: Backend,
) -> tuple[Listener, ...]:
    """Who listens on this host: asked only when something may be started or a forward moved, for the kernel goes
    through all its connections to tell it. Names that are `busy` have what they were given."""
    vms = desired.vms
    binding = {one.instance.name for one in seen if _may_bind(one, vms.get(one.instance.name))}
    binding |= {
        name
        for name in vms.keys() - {one.instance.name for one in seen}
        if not vms[name].spec.suspend and vms[name].spec.power != "stopped"
    }
    binding -= set(busy)
    if not binding and not may_begin(desired, runs, busy):
        return ()
    ports = {port.host for name in binding & vms.keys() for port in vms[name].spec.ports}
    for one in seen:
        if one.instance.name in binding:
            ports.update(forward.host for forward in one.instance.forwards)
            ports.update([one.instance.ssh_port] if one.instance.ssh_port else [])
    return tuple(backend.host.listeners(ports))


def _may_bind(one: Seen, wanted: WantedVm | None) -> bool:
    """Whether the next step for an instance may need ports of the host that it does not listen on already. `wanted`
    None: it goes on by its own spec."""
    instance = one.instance
    if wanted is None:
        spec = instance.vm_spec if one.verdict is Verdict.GONE else None
        return spec is not None and not _stays_down(instance, spec)
    spec = wanted.spec
    if spec.suspend:
        return False
    return (
        instance.spec_digest != spec.digest
        or instance.forwards != forwards_of(spec, instance.ssh_port)
        or (one.verdict is Verdict.GONE and not _stays_down(instance, spec))
    )


def _stays_down(instance: Instance, spec: VmSpec) -> bool:
    """Whether an instance without a process is as its spec wants it: `agent.keepalive` starts none of these."""
    if spec.power == "stopped" or spec.suspend:
        return True
    match instance.phase, instance.cause:
        case Phase.STOPPED, Cause.GUEST_OFF:
            return spec.restart != "always"
        case Phase.STOPPED, Cause.PANIC:
            return spec.restart == "never"
        case Phase.CRASHED, cause:
            return spec.restart == "never" and cause is not Cause.REBOOT
        case _:
            return False
