"""One machine from its row to its process and back: what several steps do to an instance, each part recorded.

It refuses to choose: which machine, when and why is the step's. A process is inert until the ledger knows it, and
what is found running under a uid is used, not doubled.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agent.errors import ImageUnavailable, StartFailed
from agent.hypervisor.api import Accelerator, Backend, Machine, SeedContent
from agent.intent import Clock, Intent
from agent.steps import Birth
from state.ids import Name, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import Instance, NameRecord
from state.records import instance_row
from state.spec.resolved import Forward, VmSpec

PATIENCE = 2.0
"""Seconds after which a start that is still under way no longer keeps others from starting: it waits for something that
no processor can hurry."""


class Machines:
    """The machines of one backend, as one ledger knows them."""

    def __init__(self, ledger: Ledger, backend: Backend, clock: Clock) -> None:
        self._ledger = ledger
        self._images = backend.images
        self._hypervisor = backend.hypervisor
        self._clock = clock
        # Starting is nearly all CPU: more at once than there are cores makes each of them later, not the last earlier.
        self._slots = asyncio.Semaphore(max(2, len(os.sched_getaffinity(0))))

    def known(self, uid: Uid, name: Name) -> Instance:
        """The instance's row, as it is now."""
        instance = self._ledger.instance(uid)
        if instance is None:
            raise StartFailed(f"changing {name}: its instance {uid} is not recorded any more")
        return instance

    # Coming up

    async def born(self, birth: Birth, intent: Intent, forwards: tuple[Forward, ...]) -> Instance:
        """The row of an instance that is to be, with its leases and the forwards that it is to be started with, written
        before anything of it exists."""
        spec = birth.spec
        stored = await self._images.look([spec.image])
        if (base := stored.get(spec.image)) is None:
            raise ImageUnavailable(
                f"creating {spec.name}: image {spec.image.label} has left the store"
            )
        await self._ledger.free()
        instance = self._ledger.instance(birth.uid)
        if instance is None:
            instance = Instance(
                uid=birth.uid,
                kind=birth.kind,
                name=spec.name,
                generation=birth.generation,
                phase=Phase.PENDING,
                cause=Cause.NONE,
                spec=spec.canonical(),
                spec_digest=spec.digest,
                base=base,
                accelerator=birth.accelerator,
                source=birth.source,
                created_at=self._clock().wall,
                run_as=birth.run_as,
            )
        instance = replace(
            instance,
            spec=spec.canonical(),
            spec_digest=spec.digest,
            source=birth.source,
            ssh_port=birth.ssh_port,
            forwards=forwards,
        )
        with intent.begin() as change:
            change.put_name(NameRecord(spec.name, birth.generation, birth.ssh_port))
            change.put_instance(instance)
        return instance

    async def spawned(self, instance: Instance, spec: VmSpec) -> Instance:
        """The instance with its files and an inert process, recorded."""
        machine = _machine(instance, spec)
        async with self._slot():
            await self._hypervisor.prepare(machine)
            process = await self._hypervisor.spawn(machine)
        instance = replace(instance, phase=Phase.STARTING, process=process)
        await self._ledger.free()
        with self._ledger.transaction() as change:
            change.put_instance(instance)
        return instance

    async def prepared(self, instance: Instance, spec: VmSpec) -> None:
        """Make the instance's files."""
        async with self._slot():
            await self._hypervisor.prepare(_machine(instance, spec))

    async def bind(self, instance: Instance, forwards: tuple[Forward, ...]) -> Instance:
        """The live instance with exactly these forwards, recorded."""
        await self._hypervisor.set_forwards(instance.uid, forwards)
        await self._ledger.free()
        instance = replace(self.known(instance.uid, instance.name), forwards=forwards)
        with self._ledger.transaction() as change:
            change.put_instance(instance)
        return instance

    async def let_go(self, instance: Instance, spec: VmSpec) -> Instance:
        """Let the inert guest run, unless it is to be paused; how it is to be recorded then."""
        if spec.power == "running":
            await self.resume(instance)
        await self._ledger.free()
        return replace(
            instance,
            phase=Phase.RUNNING,
            cause=Cause.NONE,
            detail="",
            started_at=self._clock().wall,
            ready_at=None,
            unhealthy="",
        )

    async def resume(self, instance: Instance) -> None:
        """Let the guest run. Its own file says so beforehand: an agent that has lost the ledger takes for inert only
        what never ran."""
        if instance.started_at is None:
            await self.describe(replace(instance, started_at=self._clock().wall))
        await self._hypervisor.resume(instance.uid)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A turn to start; given back early by one that only waits."""
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._slots.release()

        await self._slots.acquire()
        timer = asyncio.get_running_loop().call_later(PATIENCE, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    async def describe(self, instance: Instance) -> None:
        """Let the instance's own file tell what its row tells, for an agent that has lost the ledger."""
        await self._hypervisor.describe(instance.uid, _record(instance))

    # Going down

    async def take_away(self, uid: Uid, grace: float, intent: Intent) -> None:
        """End the instance's process and remove everything of it."""
        instance = self._ledger.instance(uid)
        if instance is None:
            return
        await self.end(instance, grace)
        await self._hypervisor.discard(uid)
        await self._ledger.free()
        with self._ledger.transaction() as change:
            change.remove_instance(uid)
            said = f"generation {instance.generation} and its disk are gone"
            change.event(intent.event("Gone", said, uid))

    async def end(self, instance: Instance, grace: float) -> None:
        """End the instance's process, if it has one, with the decision recorded first."""
        await self._ledger.free()
        with self._ledger.transaction() as change:
            change.put_instance(replace(instance, phase=Phase.STOPPING))
        if (process := self.live(instance)) is not None:
            await self._hypervisor.stop(instance.uid, process, grace)

    # What is there

    def live(self, instance: Instance) -> Process | None:
        """The instance's process: the recorded one, or one that was started and not recorded."""
        recorded = instance.process
        if recorded is not None and self._hypervisor.alive(instance.uid, recorded):
            return recorded
        return self._hypervisor.process_of(instance.uid)

    async def supervised(self, instance: Instance) -> Process | None:
        """The instance's live process, adopted first where that has not been done."""
        process = self.live(instance)
        if process is not None and not self._hypervisor.attached(instance.uid):
            await self._hypervisor.attach(instance.uid, process)
        return process


def _machine(instance: Instance, spec: VmSpec) -> Machine:
    image = spec.image
    accelerator: Accelerator = "kvm" if instance.accelerator == "kvm" else "tcg"
    return Machine(
        uid=instance.uid,
        name=instance.name,
        generation=instance.generation,
        base=instance.base,
        cpus=spec.cpus,
        memory=spec.memory,
        disk=spec.disk,
        accelerator=accelerator,
        machine=image.machine,
        firmware=image.firmware,
        seed_bus=image.seed_bus,
        seed=SeedContent(image.ssh_user, spec.user_data) if image.nocloud else None,
        forwards=instance.forwards,
        egress=spec.egress,
        run_as=instance.run_as,
        record=_record(instance),
    )


def _record(instance: Instance) -> str:
    return json.dumps(instance_row(instance, qmp=""), sort_keys=True)
