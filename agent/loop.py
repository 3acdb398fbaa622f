"""The loop: wait, look, decide, act, say why.

Level-triggered: a wake says *look*, and every pass decides from what is there. Steps run beside the loop, one at a time
for each name, so that no slow one delays another name's; what they bring about is seen by the next pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from agent import intent, log
from agent.doing import Doing
from agent.errors import RetryLater
from agent.execute import Executor
from agent.fetches import HOW_FAR_EVERY
from agent.fetching import Fetching
from agent.hypervisor.api import Backend
from agent.intent import Clock
from agent.jobs.outcome import Fault
from agent.jobs.requests import Requests
from agent.jobs.runner import Runner
from agent.jobs.store import RunStore
from agent.notify import Manager
from agent.observe import observe
from agent.operator import Operator
from agent.parting import power_down
from agent.plan import plan
from agent.policy import Policy
from agent.pulse import Pulse
from agent.reading import Reading, Source
from agent.ready import OnReady, Readiness
from agent.record import Pass, Recorder
from agent.recover import recover, take_in_strangers
from agent.steps import CancelRun, Step, Wait
from agent.unmoved import Decided
from agent.wake import Wake
from state.clock import Moment
from state.desired import Desired
from state.history import Event
from state.ids import Name, Process, RunId, Uid
from state.ledger import Ledger
from state.observed import Observed
from state.records import LedgerUnreadable
from state.spec.resolved import ImageSpec

SHORTEST_WAIT = 0.05
STRANGERS = 60.0
"""Seconds from one look for machines that the ledger does not know to the next."""


@dataclass(frozen=True, slots=True)
class World:
    """What an agent acts on, and the clock that it acts by."""

    source: Source
    ledger: Ledger
    backend: Backend
    clock: Clock
    store: RunStore


class Agent:
    """Keeps one backend as one source says, until it is told to stop, or until nothing can be recorded any more.

    `interval`: seconds after which it looks again although nothing woke it. `on_pass` is told of every pass, `on_ready`
    as `agent.ready` says, `manager` when the loop begins, that it lives, and when it leaves.
    """

    def __init__(  # noqa: PLR0913 - three to be told
        self,
        world: World,
        policy: Policy,
        *,
        interval: float = 30.0,
        on_pass: Callable[[Pass], None] = lambda _: None,
        manager: Manager | None = None,
        on_ready: OnReady = lambda _check, _seconds: None,
    ) -> None:
        self._ledger = world.ledger
        self._backend = world.backend
        self._clock = world.clock
        self._store = world.store
        self._policy = policy
        self._interval = interval
        self._on_pass = on_pass
        self._pulse = Pulse(manager or Manager())
        self._reading = Reading(world.source, self._pulse)
        self._on_ready = on_ready
        self.wake = Wake()
        self._doing = Doing()
        self._fetching = Fetching(world.ledger, world.backend, world.clock, self._doing)
        self._fetches: set[asyncio.Task[None]] = set()
        self._recorder = Recorder(world.ledger)
        self._runner: Runner | None = None
        self._desired: Desired | None = None
        self._decided: Decided | None = None
        self.requests = Requests(
            world.ledger,
            world.store,
            world.clock,
            policy.state_id,
            doing=self._doing,
            wake=self.wake.notify,
            desired=lambda: self._desired,
            interrupt=self._cancel,
        )
        self.operator = Operator(world.ledger, world.clock, world.backend, self.wake.notify)
        self._passes = 0
        self._stopping = False

    def stop(self, *, sparing: bool = False) -> None:
        """Leave at the next turn; steps under way are finished first, fetches are given up, and runs have the policy's
        `drain_timeout` to end. Said once more: they end now. Machines run on, unless the policy's `on_stop` says
        otherwise; `sparing`: whatever that says."""
        if sparing:
            self._policy = replace(self._policy, on_stop="leave")
        if self._stopping:
            self._drain()
        self._stopping = True
        self.wake.notify("stop")
        self._reading.give_up()

    async def run(self, *, watching: Coroutine[Any, Any, None] | None = None) -> None:
        """Converge, and go on converging. `watching` runs beside the loop and ends with it."""
        executor = Executor(self._ledger, self._backend, self._clock, self._doing, self._store)
        self._runner = executor.runner
        readiness = Readiness(
            self._ledger, self._backend, self._clock, self.wake.notify, self._on_ready
        )
        await self._backend.hypervisor.open(self._changed)
        try:
            known = self._store.recovered()
            await recover(self._ledger, self._backend.hypervisor, self._clock, known)
            async with asyncio.TaskGroup() as beside:
                helpers = [beside.create_task(watching)] if watching else []
                helpers.append(beside.create_task(self._look_for_strangers()))
                async with asyncio.TaskGroup() as steps:
                    self.wake.notify("start")
                    self._pulse.ready()
                    timeout = self._interval
                    while not self._stopping:
                        reasons = await self._pulse.wait(self.wake, timeout)
                        if self._stopping:
                            break
                        timeout = self._interval
                        if (done := await self._guarded_turn(reasons)) is not None:
                            self._fetch_for(done, beside)
                            self._act(done, executor, steps)
                            with log.of_pass(done.id):
                                readiness.follow(done.observed, beside)
                            timeout = self._until(done)
                            if not done.plan.awaits:
                                # A look after each of two hundred that come up is a third of what they cost us.
                                self.wake.rest()
                    self._pulse.leaving()
                    for fetch in self._fetches:
                        fetch.cancel()
                    helpers.append(beside.create_task(self._look_on(executor)))
                    drain = asyncio.get_running_loop().call_later(
                        self._policy.drain_timeout, self._drain
                    )
                drain.cancel()
                if self._policy.on_stop == "shutdown":
                    await power_down(self._ledger, self._backend.hypervisor, executor, self._clock)
                readiness.follow(Observed(), beside)
                for helper in helpers:
                    helper.cancel()
        finally:
            if watching is not None:
                watching.close()
            self._reading.leave()
            await self._backend.hypervisor.close()

    def _cancel(self, run: RunId, why: str) -> None:
        if self._runner is not None:
            self._runner.interrupt(run, Fault.CANCELLED, why)

    def _drain(self) -> None:
        if self._runner is not None:
            self._runner.drain()

    async def _look_on(self, executor: Executor) -> None:
        """See, while runs get their time to end, which of them nobody wants any more. Nothing is begun by it."""
        timeout = self._interval
        while True:
            reasons = await self._pulse.wait(self.wake, timeout)
            if (done := await self._guarded_turn(reasons)) is not None:
                self._end_unwanted(done, executor)
                timeout = self._until(done)

    async def _look_for_strangers(self) -> None:
        told: set[Process] = set()
        while True:
            await asyncio.sleep(STRANGERS)
            await self._ledger.free()
            try:
                hypervisor, busy = self._backend.hypervisor, self._doing.names
                if await take_in_strangers(
                    self._ledger, hypervisor, self._clock, busy=busy, told=told
                ):
                    self.wake.notify("strangers")
            except LedgerUnreadable:
                raise
            except Exception as bug:  # noqa: BLE001 - as above
                self._bug("looking for strangers", bug)

    async def _guarded_turn(self, reasons: tuple[str, ...]) -> Pass | None:
        """One turn; None where the host or a bug of ours broke it off: that is told and must not end what else runs."""
        self._passes += 1
        now = self._clock()
        id = f"{int(now.wall):x}-{self._passes}"
        with log.of_pass(id):
            try:
                return await self._turn(id, now, reasons)
            except LedgerUnreadable:
                raise
            except RetryLater as error:
                self._tell(intent.event(self._clock(), id, "PassFailed", str(error)))
            except Exception as bug:  # noqa: BLE001 - a bug in a look is no reason to let go of what is there
                self._bug("a pass", bug, id)
        return None

    async def _turn(self, id: str, now: Moment, reasons: tuple[str, ...]) -> Pass | None:
        """Look, decide, and record why; None when told to stop before the source has answered. Nothing is recorded of
        an agent that is about to leave: it does not do what it would have decided."""
        self.operator.began()
        begun = asyncio.get_running_loop().time()
        desired = await self._reading.load(now.wall)
        if desired is None:
            return None
        while True:
            before = self._decided
            observed = await observe(self._ledger, self._backend, desired, self._doing, before)
            if await self._ledger.free():
                continue
            decided = plan(desired, observed, self._policy, now, before)
            short = self._policy.disk_floor - (observed.free_disk or 0)
            if self._stopping or not await self._fetching.make_way(decided, short, id, desired):
                break
        took = asyncio.get_running_loop().time() - begun
        done = Pass(id, reasons, desired, observed, decided, took)
        self._desired = desired
        self._decided = Decided(desired, observed, decided)
        if not self._stopping:
            self._recorder.record(done, now.wall)
            self.operator.passed(decided, desired)
            self._on_pass(done)
        return done

    def _fetch_for(self, done: Pass, group: asyncio.TaskGroup) -> None:
        """Begin to fetch what the pass asks for, unless the agent is about to leave."""
        for image in () if self._stopping else done.plan.fetches:
            self._doing.images[image] = "asked for"
            task = group.create_task(self._fetch(image, done))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)

    def _act(self, done: Pass, executor: Executor, group: asyncio.TaskGroup) -> None:
        """Begin every step that nothing stands before, unless the agent is about to leave."""
        if self._stopping:
            return
        self._end_unwanted(done, executor)
        for step in done.plan.acting:
            if step.name not in self._doing.names and getattr(step, "fetch", None) is None:
                self._doing.begin(step)
                group.create_task(self._perform(executor, step, done.id))

    def _end_unwanted(self, done: Pass, executor: Executor) -> None:
        """Let the runs under way end that are not wanted any more: the only steps for names that are busy."""
        for step in done.plan.acting:
            if isinstance(step, CancelRun) and step.name in self._doing.names:
                executor.runner.interrupt(step.run, Fault.CANCELLED, step.because)

    async def _perform(self, executor: Executor, step: Step, pass_id: str) -> None:
        try:
            with log.of_pass(pass_id):
                await executor.perform(step, pass_id)
        except LedgerUnreadable:
            raise
        except Exception as bug:  # noqa: BLE001 - one name fails alone, also by a bug of ours
            self._bug(f"{step.action} of {step.name}", bug, pass_id, step.name)
        finally:
            self._doing.end(step)
            self.wake.notify(f"{step.name}: {step.action} ended", own=True)

    async def _fetch(self, image: ImageSpec, done: Pass) -> None:
        try:
            with log.of_pass(done.id):
                await self._fetching.fetch(image, done.id, done.desired)
        except LedgerUnreadable:
            raise
        except Exception as bug:  # noqa: BLE001 - as above
            self._bug(f"fetching image {image.label}", bug, done.id)
        finally:
            self._doing.images.pop(image, None)
            self.wake.notify(f"image {image.label} was fetched")

    def _bug(self, doing: str, bug: Exception, pass_id: str = "", name: Name | None = None) -> None:
        self._tell(intent.bug(self._clock(), pass_id, doing, bug, name))

    def _tell(self, told: Event) -> None:
        with self._ledger.transaction() as change:
            change.event(told)

    def _changed(self, uid: Uid, word: str) -> None:
        instance = self._ledger.instance(uid)
        name = instance.name if instance else None
        self.wake.notify(f"{name or uid}: {word}", own=name in self._doing.names)

    def _until(self, done: Pass) -> float:
        """Seconds until the next look, if nothing wakes the loop before."""
        waits = [step.until for step in done.plan.steps if isinstance(step, Wait) and step.until]
        if done.plan.fetches:
            waits.append(HOW_FAR_EVERY)
        if done.desired.look_again is not None:
            waits.append(done.desired.look_again)
        return max(SHORTEST_WAIT, min([self._interval, *waits]))
