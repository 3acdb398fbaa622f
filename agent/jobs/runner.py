"""Steps of jobs: queue a run, see an attempt of it to its end, cancel it. Each part is recorded before the next.

It is the executor's hand for jobs, and as boring: what may begin was planned, what an end means `agent.jobs.outcome`
says, and a VM that outlives its attempt, for whatever reason, is the next plan's to take away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.doing import Doing
from agent.errors import Blocked, HoldfastError
from agent.hypervisor.api import Backend
from agent.intent import Clock, Intent
from agent.jobs import outcome
from agent.jobs.attempt import Attempted, Interruption
from agent.jobs.outcome import Ending, Fault, exited
from agent.jobs.store import RunStore
from agent.machines import Machines
from agent.steps import Attempt, CancelRun, Enqueue, Resume
from agent.worker import Worker
from state.history import Event
from state.ids import RunId
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance
from state.runs import Run, RunPhase
from state.spec.resolved_job import JobSpec

RUNS_KEPT = 20
"""Runs of a name whose logs and artifacts are kept."""
SPECS_KEPT = 1000
"""Specs of a name of which it is remembered that they ran."""

_LEAVES = "the agent had to leave"

JobStep = Enqueue | Attempt | Resume | CancelRun


class Runner:
    """Does the steps of jobs."""

    def __init__(  # noqa: PLR0913 - what the executor and the loop share
        self,
        ledger: Ledger,
        backend: Backend,
        machines: Machines,
        store: RunStore,
        clock: Clock,
        doing: Doing,
    ) -> None:
        self._ledger = ledger
        self._backend = backend
        self._machines = machines
        self._store = store
        self._clock = clock
        self._doing = doing
        self._under_way: dict[RunId, Interruption] = {}
        self._draining = False

    def interrupt(self, run: RunId, fault: Fault, why: str) -> None:
        """Let an attempt that is under way here end soon; nothing where there is none."""
        if (found := self._under_way.get(run)) is not None and found.fault is None:
            found.fault, found.why = fault, why

    def drain(self) -> None:
        """Let every attempt that is under way here end soon, since the agent has to leave, and begin no other."""
        self._draining = True
        for run in self._under_way:
            self.interrupt(run, Fault.DRAINED, _LEAVES)

    async def perform(self, step: JobStep, intent: Intent) -> None:
        """Do one step; nothing where its run has ended meanwhile. Raises HoldfastError and OSError for what the
        executor records as its failure."""
        if (known := self._ledger.run(step.run)) is not None and known.phase.ended:
            return
        match step:
            case Enqueue():
                run = await self._queued(step)
                await self._ledger.free()
                with intent.done("Queued", step.because) as change:
                    change.put_run(run)
            case CancelRun():
                run = self._known(step.run)
                await self._end(
                    run, Ending("Cancelled", step.because, fault=Fault.CANCELLED), intent
                )
            case Attempt() if self._draining:
                return  # nothing of it has begun: it is the next agent's
            case Attempt() | Resume():
                self._under_way[step.run] = interruption = Interruption()
                if self._draining:
                    self.interrupt(step.run, Fault.DRAINED, _LEAVES)
                elif known is not None and known.cancel:
                    self.interrupt(step.run, Fault.CANCELLED, known.cancel)
                try:
                    begin = self._begun if isinstance(step, Attempt) else self._resumed
                    ending = await begin(step, intent, interruption)  # type: ignore[arg-type]
                finally:
                    del self._under_way[step.run]
                await self._end(self._known(step.run), ending, intent)

    def _known(self, run: RunId) -> Run:
        found = self._ledger.run(run)
        if found is None:
            raise HoldfastError(f"run {run} is not recorded any more")
        return found

    async def _queued(self, step: Enqueue | Attempt) -> Run:
        """The run, with all that it needs put down. The source is asked in a thread of its own."""
        spec = step.spec
        run = Run(
            id=step.run,
            name=spec.name,
            number=step.number,
            spec=spec.canonical(),
            spec_digest=spec.digest,
            source=step.source,
            phase=RunPhase.QUEUED,
            queued_at=self._clock().wall,
        )
        worker = Worker("files of a run")
        try:
            await worker.submit(lambda: self._store.enqueue(run, spec))
        finally:
            worker.leave()
        return run

    # An attempt

    async def _begun(self, step: Attempt, intent: Intent, interruption: Interruption) -> Ending:
        run = self._ledger.run(step.run)
        if run is None:
            run = await self._queued(step)
            await self._ledger.free()
            with self._ledger.transaction() as change:
                change.put_run(run)
                change.event(intent.event("Queued", f"run {run.number}", None))
        try:
            secrets = await self._store.secrets(JobSpec.from_canonical(run.spec))
        except Blocked as error:
            return Ending("SecretRefused", str(error), fault=Fault.REFUSED)
        await self._ledger.free()
        self._doing.names[step.name] = f"attempt {run.attempt + 1} of run {run.number}: booting"
        instance = await self._machines.born(step.birth, intent, step.birth.forwards)
        now = self._clock()
        run = self._known(step.run)  # it may have been cancelled meanwhile
        run = replace(
            run,
            phase=RunPhase.BOOTING,
            reason="Booting",
            message="",
            attempt=run.attempt + 1,
            boot_id=now.boot_id,
            attempt_began=now.boottime,
            began_at=now.wall,
            uid=instance.uid,
        )
        said = f"run {run.number}: the VM of attempt {run.attempt} boots"
        self._record(run, intent.event("RunBegan", said, instance.uid))
        try:
            instance = await self._machines.spawned(instance, step.birth.spec)
            instance = await self._let_go(instance, step)
        except HoldfastError as error:
            return Ending(type(error).__name__, str(error), fault=Fault.MACHINERY)
        return await self._seen_through(run, instance, interruption, secrets)

    async def _let_go(self, instance: Instance, step: Attempt) -> Instance:
        instance = await self._machines.let_go(instance, step.birth.spec)
        with self._ledger.transaction() as change:
            change.put_instance(instance)
        return instance

    async def _resumed(self, step: Resume, intent: Intent, interruption: Interruption) -> Ending:
        intent.write()
        run = self._known(step.run)
        # Without them its log cannot be kept on. It goes on meanwhile: a slip in a list is no reason to end it.
        secrets = await self._store.secrets(JobSpec.from_canonical(run.spec))
        await self._ledger.free()
        instance = self._ledger.instance(run.uid) if run.uid else None
        if instance is None:
            return self._lost(run, "its VM is not recorded any more")
        try:
            process = await self._machines.supervised(instance)
            if process is not None:
                instance = replace(instance, process=process)
            elif instance.phase is Phase.PENDING and run.boot_id == self._clock().boot_id:
                # The last agent died before it had started anything.
                spec = instance.vm_spec
                instance = await self._machines.spawned(instance, spec)
            else:
                return self._lost(run, "its VM ended while no agent ran")
            if instance.phase is not Phase.RUNNING:
                instance = await self._started(instance)
        except HoldfastError as error:
            return self._lost(run, str(error))
        return await self._seen_through(run, instance, interruption, secrets, resumed=True)

    async def _started(self, instance: Instance) -> Instance:
        """An attempt's VM whose agent died while it was starting it: saying it again changes nothing but the record."""
        await self._machines.resume(instance)
        await self._ledger.free()
        now = self._clock().wall
        instance = replace(instance, phase=Phase.RUNNING, started_at=instance.started_at or now)
        with self._ledger.transaction() as change:
            change.put_instance(instance)
        return instance

    @staticmethod
    def _lost(run: Run, why: str) -> Ending:
        if run.exit_code is not None:
            return exited(run.exit_code)
        begun = run.phase is RunPhase.RUNNING
        return Ending("VmLost", why, fault=Fault.CUT_OFF if begun else Fault.MACHINERY)

    async def _seen_through(
        self,
        run: Run,
        instance: Instance,
        interruption: Interruption,
        secrets: Mapping[str, str],
        *,
        resumed: bool = False,
    ) -> Ending:
        def progress(said: str) -> None:
            self._doing.names[run.name] = f"attempt {run.attempt} of run {run.number}: {said}"

        attempt = Attempted(
            run.id,
            JobSpec.from_canonical(run.spec),
            instance,
            ledger=self._ledger,
            backend=self._backend,
            store=self._store,
            clock=self._clock,
            progress=progress,
            interruption=interruption,
            secrets=secrets,
            resumed=resumed,
        )
        return await attempt.see_through()

    # Its end

    async def _end(self, run: Run, ending: Ending, intent: Intent) -> None:
        """Record what the end of an attempt makes of its run: the run's own files first, since nothing would write a
        result that the ledger has already."""
        await self._ledger.free()
        run = self._known(run.id)
        attempted = run.uid
        run = outcome.after(run, JobSpec.from_canonical(run.spec), ending, self._clock())
        if not run.phase.ended:
            self._store.forget_artifacts(run.id)
        self._store.record(run)
        word = f"Run{run.phase.value.capitalize()}" if run.phase.ended else "RunRetried"
        said = f"run {run.number}: {run.message}"
        with intent.done(word, said) as change:
            change.put_run(run)
        if attempted is not None and run.kept_until is None:
            await self._machines.take_away(attempted, 0.0, intent)
            await self._ledger.free()
            with self._ledger.transaction() as change:
                change.put_name(replace(self._ledger.name(run.name), ssh_port=None))
        if run.phase.ended:
            self._forget_old(run)

    def _record(self, run: Run, event: Event | None = None) -> None:
        with self._ledger.transaction() as change:
            change.put_run(run)
            if event is not None:
                change.event(event)
        self._store.record(run)

    def _forget_old(self, latest: Run) -> None:
        """Of older runs the result alone is kept, of the last of each spec: it is not forgotten that this ran."""
        own = [run for run in self._ledger.runs() if run.name == latest.name and run.phase.ended]
        now = self._clock()
        specs = {run.spec_digest for run in own[-RUNS_KEPT:]}
        for run in reversed(own[:-RUNS_KEPT]):
            if run.keeps_its_vm(now):
                continue
            if run.spec_digest not in specs and len(specs) < SPECS_KEPT:
                specs.add(run.spec_digest)
                self._store.shrink(run.id)
                continue
            with self._ledger.transaction() as change:
                change.remove_run(run.id)
            self._store.remove(run.id)
