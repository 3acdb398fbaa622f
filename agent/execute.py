"""One step: check its precondition, write the intent, act, write the outcome. No policy.

Every step can be cut off at any line and begun again by the next agent, since each part of it (`agent.machines`) can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent import backoff
from agent.doing import Doing
from agent.errors import HoldfastError, StartFailed
from agent.hypervisor.api import Backend
from agent.intent import Clock, Intent
from agent.jobs.runner import Runner
from agent.jobs.store import RunStore
from agent.leases import excluded, forwards_of
from agent.machines import Machines
from agent.steps import (
    Adopt,
    Attempt,
    CancelRun,
    Clear,
    Crash,
    Create,
    Destroy,
    Enqueue,
    Hold,
    Keep,
    Power,
    Replace,
    Restart,
    Resume,
    Step,
    Unblock,
    Update,
    Wait,
    target,
)
from state.desired import SourceRef
from state.ids import Uid
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance, step_key, vm_key
from state.records import LedgerUnreadable
from state.spec.resolved import Forward, VmSpec


class Executor:
    """Does steps against one backend and one ledger. Steps of different names run beside each other."""

    def __init__(
        self, ledger: Ledger, backend: Backend, clock: Clock, doing: Doing, store: RunStore
    ) -> None:
        self._ledger = ledger
        self._backend = backend
        self._hypervisor = backend.hypervisor
        self._clock = clock
        self._doing = doing
        self._machines = Machines(ledger, backend, clock)
        self.runner = Runner(ledger, backend, self._machines, store, clock, doing)

    async def perform(self, step: Step, pass_id: str) -> None:
        """Do one step and record how it ended. Raises nothing but bugs and cancellation."""
        if not step.acts:
            return
        intent = Intent(self._ledger, step, pass_id, self._clock)
        try:
            await self._ledger.free()
            await self._do(step, intent)
        except HoldfastError as error:
            await self._failed(intent, error)
        except OSError as error:
            await self._failed(intent, HoldfastError(f"{step.action} of {step.name}: {error}"))
        except LedgerUnreadable:
            raise
        except Exception as bug:
            # With a back-off like any failure, or the next pass would do the same again at once.
            said = f"{step.action} of {step.name} met a bug of holdfast: {bug!r}"
            await self._failed(intent, HoldfastError(said))
            raise

    async def _failed(self, intent: Intent, error: HoldfastError) -> None:
        await self._ledger.free()
        intent.failed(error)

    async def _do(self, step: Step, intent: Intent) -> None:  # noqa: C901 - one case a step
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
            case Unblock():
                await self._unblock(step, intent)
            case Crash():
                instance = self._machines.known(step.uid, step.name)
                ended = replace(
                    instance, phase=Phase.CRASHED, cause=step.cause, detail=step.because
                )
                with intent.done("Crashed", step.because) as change:
                    change.put_instance(ended)
            case Enqueue() | Attempt() | Resume() | CancelRun():
                await self.runner.perform(step, intent)
            case Keep() | Wait() | Hold():
                raise AssertionError(f"a {step.action} is nothing to do")

    # Creating and replacing

    async def _create(self, step: Create, intent: Intent) -> None:
        spec = step.birth.spec
        instance = await self._machines.born(step.birth, intent, step.birth.forwards)
        await self._start(await self._machines.spawned(instance, spec), spec, intent, "Created")

    async def _replace(self, step: Replace, intent: Intent) -> None:
        """The new instance takes over only once QEMU has shown that it can run it: its process waits, inert and with
        those forwards alone that the old one has not got, until that has ended. The old one's disk is removed last:
        until the new one runs, the old one can go on, and what is half removed never comes back."""
        spec = step.birth.spec
        held = [one for uid in step.old for one in self._forwards_of(uid)]
        free = tuple(one for one in step.birth.forwards if not excluded(one, held))
        instance = await self._machines.born(step.birth, intent, free)
        # It may have run already, before its predecessor was seen to be still there.
        starts = instance.started_at is None and spec.power != "stopped"
        if starts:
            instance = await self._machines.spawned(instance, spec)
        else:
            await self._machines.prepared(instance, spec)
        for uid in step.old:
            if (old := self._ledger.instance(uid)) is not None:
                await self._machines.end(old, old.vm_spec.stop_timeout)
        said = step.because
        if starts:
            instance = await self._machines.bind(instance, step.birth.forwards)
            started = await self._machines.let_go(instance, spec)
            with self._ledger.transaction() as change:
                change.put_instance(started)
            said = _runs(started)
        for uid in step.old:
            await self._machines.take_away(uid, 0.0, intent)
        with intent.done("Replaced", said) as change:
            if starts:
                change.remove_retry(vm_key(step.name))

    def _forwards_of(self, uid: Uid) -> tuple[Forward, ...]:
        """What an instance has, or may have: one that was taken in from its own file may have been given more since."""
        instance = self._ledger.instance(uid)
        if instance is None:
            return ()
        spec = instance.vm_spec
        return (*instance.forwards, *forwards_of(spec, instance.ssh_port))

    async def _start(
        self, instance: Instance, spec: VmSpec, intent: Intent, word: str, why: str = ""
    ) -> None:
        """From an inert process to a running guest."""
        started = await self._machines.let_go(instance, spec)
        with intent.done(word, why + _runs(started)) as change:
            change.put_instance(started)
            if word != "Restarted":
                change.remove_retry(vm_key(instance.name))

    # Ending

    async def _dismiss(self, step: Destroy | Clear, intent: Intent) -> None:
        intent.write()
        grace = step.grace if isinstance(step, Destroy) else 0.0
        # Newest first: a step that is cut off leaves what is old, never a replacement without its predecessor.
        for uid in reversed(step.uids):
            await self._machines.take_away(uid, grace, intent)
        word = "Destroyed" if isinstance(step, Destroy) else "Cleared"
        with intent.done(word, step.because) as change:
            if isinstance(step, Destroy):
                # Its generation is kept: should the name come back, it is not taken for what it was.
                change.put_name(replace(self._ledger.name(step.name), ssh_port=None))
                change.remove_retry(vm_key(step.name))

    # Keeping

    async def _restart(self, step: Restart, intent: Intent) -> None:
        instance = self._machines.known(step.uid, step.name)
        process = self._machines.live(instance)
        if instance.phase is not Phase.STOPPED:
            phase = Phase.STOPPING if process is not None else Phase.CRASHED
            phase = Phase.STOPPING if instance.phase is Phase.STOPPING else phase
            instance = replace(instance, phase=phase, cause=step.cause, detail=step.because)
        instance = replace(instance, ready_at=None, unhealthy="")
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
            source=_source(instance, step, step.spec),
            accelerator=step.accelerator,
            forwards=forwards_of(step.spec, instance.ssh_port),
            process=None,
            restarts=instance.restarts + 1,
        )
        spawned = await self._machines.spawned(instance, step.spec)
        await self._start(spawned, step.spec, intent, "Restarted", f"{step.because}; ")

    async def _adopt(self, step: Adopt, intent: Intent) -> None:
        instance = self._machines.known(step.uid, step.name)
        if (process := instance.process) is None:
            raise StartFailed(f"adopting {step.name}: no process of it is recorded")
        await self._hypervisor.attach(step.uid, process)
        await self._ledger.free()
        with intent.done("Adopted", step.because):
            pass

    async def _update(self, step: Update, intent: Intent) -> None:
        instance = self._machines.known(step.uid, step.name)
        intent.write()
        process = await self._machines.supervised(instance)
        if step.forwards is not None and process is not None:
            await self._hypervisor.set_forwards(step.uid, step.forwards)
        if step.grow is not None:
            await self._hypervisor.grow(step.uid, step.grow)

        def updated(now: Instance) -> Instance:
            return (
                _now_wanted(now, step)
                if step.forwards is None
                else replace(_now_wanted(now, step), forwards=step.forwards)
            )

        await self._changed(step, intent, "Updated", updated)

    async def _unblock(self, step: Unblock, intent: Intent) -> None:
        intent.write()
        await self._hypervisor.resume(step.uid)
        await self._ledger.free()
        key = step_key(step.name, step.action)
        # Where the next write fails again, it is tried less and less often.
        again = backoff.failed(self._ledger.retry(key), step.because, self._clock(), target(step))
        with intent.done("Unblocked", step.because):
            pass
        with self._ledger.transaction() as change:
            change.put_retry(again)

    async def _power(self, step: Power, intent: Intent) -> None:
        instance = _now_wanted(self._machines.known(step.uid, step.name), step)
        intent.write()
        await self._machines.supervised(instance)
        match step.to:
            case "running":
                await self._machines.resume(instance)
            case "paused":
                await self._hypervisor.pause(step.uid)
            case _:
                cut_off = replace(instance, cause=step.cause, detail=step.because)
                await self._machines.end(cut_off, step.grace)

        def powered(now: Instance) -> Instance:
            now = _now_wanted(now, step)
            if step.to != "stopped":
                started = now.started_at or self._clock().wall
                return replace(now, phase=Phase.RUNNING, started_at=started)
            return replace(
                now,
                phase=Phase.STOPPED,
                cause=step.cause,
                detail=step.because,
                process=None,
                ready_at=None,
                unhealthy="",
            )

        await self._changed(step, intent, step.to.capitalize(), powered)

    async def _changed(
        self,
        step: Update | Power,
        intent: Intent,
        word: str,
        change_of: Callable[[Instance], Instance],
    ) -> None:
        """Record a change, in the instance's own file too. Its row is read anew each time: meanwhile its guest may have
        answered."""
        await self._machines.describe(change_of(self._machines.known(step.uid, step.name)))
        await self._ledger.free()
        with intent.done(word, step.because) as change:
            change.put_instance(change_of(self._machines.known(step.uid, step.name)))


def _runs(instance: Instance) -> str:
    pid = instance.process.pid if instance.process else 0
    return f"generation {instance.generation} runs as pid {pid}"


def _now_wanted(instance: Instance, step: Update | Power) -> Instance:
    if step.spec is None:
        return instance
    if instance.vm_spec.health != step.spec.health:
        # Whether it passes another check is not known yet.
        instance = replace(instance, ready_at=None, unhealthy="")
    return replace(
        instance,
        spec=step.spec.canonical(),
        spec_digest=step.spec.digest,
        source=_source(instance, step, step.spec),
    )


def _source(instance: Instance, step: Update | Power | Restart, spec: VmSpec) -> SourceRef:
    """Where its document stands: of which commit that is only counts when what it says has changed."""
    new, old = step.source, instance.source
    if new is None:
        return old
    same = instance.spec_digest == spec.digest and str(new) == str(old)
    return old if same else new
