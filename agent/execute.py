"""One step: check its precondition, write the intent, act, write the outcome. No policy.

Every step can be cut off at any line and begun again by the next agent: files are made whole or not at all, a process
is inert until it is recorded, and what is found running under a uid is used, not doubled.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

from agent import backoff
from agent.errors import HoldfastError, ImageUnavailable, StartFailed
from agent.hypervisor.api import Accelerator, Backend, Machine, SeedContent
from agent.intent import Clock, Intent, event
from agent.leases import forwards_of
from agent.observe import Doing
from agent.steps import (
    Adopt,
    Birth,
    Clear,
    Crash,
    Create,
    Destroy,
    Hold,
    Keep,
    Power,
    Replace,
    Restart,
    Step,
    Update,
    Wait,
)
from state.ids import Name, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import Instance, NameRecord, image_key, vm_key
from state.records import LedgerUnreadable, instance_row
from state.spec.resolved import ImageSpec, VmSpec


class Executor:
    """Does steps against one backend and one ledger. Steps of different names run beside each other."""

    def __init__(self, ledger: Ledger, backend: Backend, clock: Clock, doing: Doing) -> None:
        self._ledger = ledger
        self._backend = backend
        self._hypervisor = backend.hypervisor
        self._clock = clock
        self._doing = doing
        # Starting is nearly all CPU: more at once than there are cores makes each of them later, not the last earlier.
        self._starting = asyncio.Semaphore(max(2, len(os.sched_getaffinity(0))))

    async def perform(self, step: Step, pass_id: str) -> None:
        """Do one step and record how it ended. Raises nothing but bugs and cancellation."""
        if not step.acts:
            return
        intent = Intent(self._ledger, step, pass_id, self._clock)
        try:
            await self._do(step, intent)
        except HoldfastError as error:
            intent.failed(error)
        except OSError as error:
            intent.failed(HoldfastError(f"{step.action} of {step.name}: {error}"))
        except LedgerUnreadable:
            raise
        except Exception as bug:
            # With a back-off like any failure, or the next pass would do the same again at once.
            intent.failed(
                HoldfastError(f"{step.action} of {step.name} met a bug of holdfast: {bug!r}")
            )
            raise

    async def fetch(self, image: ImageSpec, pass_id: str) -> None:
        """Bring one image into the store."""

        def progress(how_far: str) -> None:
            self._doing.images[image] = how_far

        key = image_key(image)
        # Several labels of one image fail together, which is one failure.
        before = self._ledger.retry(key)
        try:
            base = await self._backend.images.fetch(image, progress)
        except Exception as error:  # noqa: BLE001 - whatever a source makes a library raise
            now = self._clock()
            with self._ledger.transaction() as change:
                change.put_retry(backoff.failed(before, str(error), now))
                change.event(event(now, pass_id, "ImageUnavailable", str(error)))
            return
        now = self._clock()
        with self._ledger.transaction() as change:
            change.remove_retry(key)
            said = f"image {image.label} is in the store as {base.digest[:19]}"
            change.event(event(now, pass_id, "ImageFetched", said))

    async def _do(self, step: Step, intent: Intent) -> None:
        match step:
            case Create():
                await self._create(step, intent)
            case Replace():
                await self._replace(step, intent)
            case Destroy() | Clear():
                await self._dismiss(step, intent)
            case Restart():
                await self._restart(step, intent)
            case Adopt():
                await self._adopt(step, intent)
            case Update():
                await self._update(step, intent)
            case Power():
                await self._power(step, intent)
            case Crash():
                instance = self._known(step.uid, step.name)
                ended = replace(
                    instance, phase=Phase.CRASHED, cause=step.cause, detail=step.because
                )
                with intent.done("Crashed", step.because) as change:
                    change.put_instance(ended)
            case Keep() | Wait() | Hold():
                raise AssertionError(f"a {step.action} is nothing to do")

    # Creating and replacing

    async def _create(self, step: Create, intent: Intent) -> None:
        instance = await self._born(step.birth, intent)
        machine = self._machine(instance, step.birth.spec)
        async with self._starting:
            await self._hypervisor.prepare(machine)
            await self._start(instance, step.birth.spec, machine, intent, "Created")

    async def _replace(self, step: Replace, intent: Intent) -> None:
        instance = await self._born(step.birth, intent)
        machine = self._machine(instance, step.birth.spec)
        async with self._starting:
            await self._hypervisor.prepare(machine)
        for uid in step.old:
            if (old := self._ledger.instance(uid)) is not None:
                grace = VmSpec.from_canonical(old.spec).stop_timeout
                await self._take_away(uid, grace, intent)
        if instance.started_at is not None or step.birth.spec.power == "stopped":
            # It had run before its predecessor was seen to be still there; or it is to run when it is wanted to.
            with intent.done("Replaced", step.because):
                return
        async with self._starting:
            await self._start(instance, step.birth.spec, machine, intent, "Replaced")

    async def _born(self, birth: Birth, intent: Intent) -> Instance:
        """The row of an instance that is to be, with its leases, written before anything of it exists."""
        spec = birth.spec
        stored = await self._backend.images.look([spec.image])
        if (base := stored.get(spec.image)) is None:
            raise ImageUnavailable(
                f"creating {spec.name}: image {spec.image.label} has left the store"
            )
        instance = self._ledger.instance(birth.uid)
        if instance is None:
            instance = Instance(
                uid=birth.uid,
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
            forwards=birth.forwards,
        )
        with intent.begin() as change:
            change.put_name(NameRecord(spec.name, birth.generation, birth.ssh_port))
            change.put_instance(instance)
        return instance

    async def _start(
        self, instance: Instance, spec: VmSpec, machine: Machine, intent: Intent, word: str
    ) -> None:
        """From files to a running guest. The process is inert until the ledger knows it."""
        process = await self._hypervisor.spawn(machine)
        instance = replace(instance, phase=Phase.STARTING, process=process)
        with self._ledger.transaction() as change:
            change.put_instance(instance)
        if spec.power == "running":
            await self._hypervisor.resume(instance.uid)
        started = replace(
            instance,
            phase=Phase.RUNNING,
            cause=Cause.NONE,
            detail="",
            started_at=self._clock().wall,
            ready_at=None,
        )
        said = f"generation {instance.generation} runs as pid {process.pid}"
        with intent.done(word, said) as change:
            change.put_instance(started)
            if word != "Restarted":
                change.remove_retry(vm_key(instance.name))

    # Ending

    async def _dismiss(self, step: Destroy | Clear, intent: Intent) -> None:
        intent.write()
        grace = step.grace if isinstance(step, Destroy) else 0.0
        # Newest first: a step that is cut off leaves what is old, never a replacement without its predecessor.
        for uid in reversed(step.uids):
            await self._take_away(uid, grace, intent)
        word = "Destroyed" if isinstance(step, Destroy) else "Cleared"
        with intent.done(word, step.because) as change:
            if isinstance(step, Destroy):
                change.remove_name(step.name)
                change.remove_retry(vm_key(step.name))

    async def _take_away(self, uid: Uid, grace: float, intent: Intent) -> None:
        if (instance := self._ledger.instance(uid)) is not None:
            await self._end(instance, grace)
            await self._remove(instance, intent)

    async def _end(self, instance: Instance, grace: float) -> None:
        """End the instance's process, if it has one, with the decision recorded first."""
        with self._ledger.transaction() as change:
            change.put_instance(replace(instance, phase=Phase.STOPPING))
        if (process := self._live(instance)) is not None:
            await self._hypervisor.stop(instance.uid, process, grace)

    async def _remove(self, instance: Instance, intent: Intent) -> None:
        await self._hypervisor.discard(instance.uid)
        with self._ledger.transaction() as change:
            change.remove_instance(instance.uid)
            said = f"generation {instance.generation} and its disk are gone"
            change.event(intent.event("Gone", said, instance.uid))

    # Keeping

    async def _restart(self, step: Restart, intent: Intent) -> None:
        instance = self._known(step.uid, step.name)
        process = self._live(instance)
        if instance.phase is not Phase.STOPPED:
            phase = Phase.STOPPING if process is not None else Phase.CRASHED
            phase = Phase.STOPPING if instance.phase is Phase.STOPPING else phase
            instance = replace(instance, phase=phase, cause=step.cause, detail=step.because)
        instance = replace(instance, ready_at=None)
        with intent.begin() as change:
            change.put_instance(instance)
            if step.fault:
                retry = self._ledger.retry(vm_key(step.name))
                change.put_retry(backoff.failed(retry, step.because, self._clock()))
        if process is not None:
            await self._hypervisor.stop(step.uid, process, step.grace)
        instance = replace(
            instance,
            spec=step.spec.canonical(),
            spec_digest=step.spec.digest,
            source=step.source or instance.source,
            accelerator=step.accelerator,
            forwards=forwards_of(step.spec, instance.ssh_port),
            process=None,
            restarts=instance.restarts + 1,
        )
        machine = self._machine(instance, step.spec)
        async with self._starting:
            await self._hypervisor.prepare(machine)
            await self._start(instance, step.spec, machine, intent, "Restarted")

    async def _adopt(self, step: Adopt, intent: Intent) -> None:
        instance = self._known(step.uid, step.name)
        if (process := instance.process) is None:
            raise StartFailed(f"adopting {step.name}: no process of it is recorded")
        await self._hypervisor.attach(step.uid, process)
        with intent.done("Adopted", step.because):
            pass

    async def _update(self, step: Update, intent: Intent) -> None:
        instance = self._known(step.uid, step.name)
        intent.write()
        process = await self._supervised(instance)
        if step.forwards is not None and process is not None:
            await self._hypervisor.set_forwards(step.uid, instance.forwards, step.forwards)
        if step.grow is not None:
            await self._hypervisor.grow(step.uid, step.grow)
        with intent.done("Updated", step.because) as change:
            # Read again: that the guest answers may have been recorded meanwhile.
            updated = _now_wanted(self._known(step.uid, step.name), step)
            if step.forwards is not None:
                updated = replace(updated, forwards=step.forwards)
            change.put_instance(updated)

    async def _power(self, step: Power, intent: Intent) -> None:
        instance = _now_wanted(self._known(step.uid, step.name), step)
        intent.write()
        await self._supervised(instance)
        match step.to:
            case "running":
                await self._hypervisor.resume(step.uid)
            case "paused":
                await self._hypervisor.pause(step.uid)
            case _:
                await self._end(instance, step.grace)
        with intent.done(step.to.capitalize(), step.because) as change:
            # Read anew: meanwhile its guest may have answered.
            now = _now_wanted(self._known(step.uid, step.name), step)
            started = now.started_at or self._clock().wall
            after = replace(now, phase=Phase.RUNNING, started_at=started)
            if step.to == "stopped":
                after = replace(
                    now,
                    phase=Phase.STOPPED,
                    cause=step.cause,
                    detail=step.because,
                    process=None,
                    ready_at=None,
                )
            change.put_instance(after)

    # What steps share

    def _known(self, uid: Uid, name: Name) -> Instance:
        instance = self._ledger.instance(uid)
        if instance is None:
            raise StartFailed(f"changing {name}: its instance {uid} is not recorded any more")
        return instance

    def _live(self, instance: Instance) -> Process | None:
        """The instance's process: the recorded one, or one that was started and not recorded."""
        recorded = instance.process
        if recorded is not None and self._hypervisor.alive(instance.uid, recorded):
            return recorded
        return next(
            (found.process for found in self._hypervisor.scan() if found.uid == instance.uid), None
        )

    async def _supervised(self, instance: Instance) -> Process | None:
        """The instance's live process, adopted first where that has not been done."""
        process = self._live(instance)
        if process is not None and not self._hypervisor.attached(instance.uid):
            await self._hypervisor.attach(instance.uid, process)
        return process

    def _machine(self, instance: Instance, spec: VmSpec) -> Machine:
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
            record=json.dumps(instance_row(instance, qmp=""), sort_keys=True),
        )


def _now_wanted(instance: Instance, step: Update | Power) -> Instance:
    return replace(
        instance,
        spec=step.spec.canonical(),
        spec_digest=step.spec.digest,
        source=step.source or instance.source,
    )
