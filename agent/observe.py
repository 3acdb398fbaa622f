"""Ledger rows and live processes -> Observed: alive, gone or unknown, never a guess. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.hypervisor.api import Backend
from state.desired import Desired
from state.ids import Name
from state.observed import Instance, Listener, NameRecord, Observed, Retry, Seen, Verdict
from state.spec.resolved import ImageSpec, VmSpec


@dataclass
class Doing:
    """What is under way in this agent: for each busy name and each image on its way, a sentence part."""

    names: dict[Name, str] = field(default_factory=dict)
    images: dict[ImageSpec, str] = field(default_factory=dict)


class Records(Protocol):
    """What is recorded: a Ledger, or a Reader of one that another process writes."""

    def instances(self) -> list[Instance]: ...
    def names(self) -> dict[Name, NameRecord]: ...
    def retries(self) -> dict[str, Retry]: ...


class NoRecords:
    """Of a state directory that no agent has run on yet."""

    def instances(self) -> list[Instance]:
        return []

    def names(self) -> dict[Name, NameRecord]:
        return {}

    def retries(self) -> dict[str, Retry]:
        return {}


async def observe(records: Records, backend: Backend, desired: Desired, doing: Doing) -> Observed:
    """The world at this moment: images are looked for first, and the rest is of one moment after that."""
    wanted = {vm.spec.image for vm in desired.vms.values()}
    # Of before the look: what arrives during it is seen by the next pass, and not asked for again by this one.
    fetching = dict(doing.images)
    images = dict(await backend.images.look(wanted))
    while True:
        seen = tuple(_look(instance, backend) for instance in records.instances())
        # A name that is held goes on by what it was last given, also when it never came to run.
        more = {
            VmSpec.from_canonical(one.instance.spec).image
            for one in seen
            if one.instance.started_at is None
        } - wanted
        if not more:
            break
        images |= await backend.images.look(more)
        wanted = wanted | more
    return Observed(
        instances=seen,
        names=records.names(),
        images=images,
        listeners=_listeners(desired, seen, backend),
        busy=dict(doing.names),
        fetching=fetching,
        retries=records.retries(),
    )


def _look(instance: Instance, backend: Backend) -> Seen:
    hypervisor = backend.hypervisor
    verdict = _verdict(instance, backend)
    return Seen(
        instance=instance,
        verdict=verdict,
        view=hypervisor.view(instance.uid),
        exit=hypervisor.exit_of(instance.uid),
        attached=verdict is Verdict.ALIVE and hypervisor.attached(instance.uid),
    )


def _verdict(instance: Instance, backend: Backend) -> Verdict:
    process = instance.process
    if process is None or process.boot_id != backend.hypervisor.boot_id:
        return Verdict.GONE
    try:
        alive = backend.hypervisor.alive(instance.uid, process)
    except OSError:
        return Verdict.UNKNOWN
    return Verdict.ALIVE if alive else Verdict.GONE


def _listeners(desired: Desired, seen: tuple[Seen, ...], backend: Backend) -> tuple[Listener, ...]:
    """Who listens on this host: asked only when something may be started or a forward moved, for it costs a little."""
    settled: Mapping[Name, Seen] = {
        one.instance.name: one for one in seen if one.verdict is Verdict.ALIVE
    }
    open_ports: set[int] = set()
    unsettled = False
    for name, vm in desired.vms.items():
        one = settled.get(name)
        if one is None or one.instance.spec_digest != vm.spec.digest:
            unsettled = True
            open_ports.update(port.host for port in vm.spec.ports)
    for one in seen:
        if one.verdict is not Verdict.ALIVE:
            unsettled = True
            open_ports.update(forward.host for forward in one.instance.forwards)
    return tuple(backend.host.listeners(open_ports)) if unsettled else ()
