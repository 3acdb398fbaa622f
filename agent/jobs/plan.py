"""What one pass does about jobs: which runs it queues, begins, takes up again and cancels, and whose VMs go. Pure.

A job's document asks for one run of its spec, ever. What has ended is never begun again by this; a rerun is a new run
that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from agent import backoff
from agent.hypervisor.api import needed
from agent.jobs.machine import machine_spec
from agent.jobs.schedule import Candidate, Room, schedule
from agent.steps import Attempt, CancelRun, Destroy, Enqueue, Hold, Keep, Resume, Step, Wait
from agent.turn import Turn
from state.clock import Moment
from state.desired import Desired, Problem, WantedJob, WantedVm
from state.ids import Name, RunId, run_id
from state.observed import Seen, Verdict
from state.runs import Run, RunPhase
from state.spec.resolved_job import JobSpec

DISK_PER_RUN = 1 << 30
"""Bytes that must be free for a run to begin: an overlay grows by what its guest writes, and a full disk hurts all."""


class JobsPass:
    """The jobs' part of one pass."""

    def __init__(self, turn: Turn) -> None:
        self._desired, self._observed = turn.desired, turn.observed
        self._policy, self._now = turn.policy, turn.now
        self._births, self._fetches = turn.births, turn.fetches
        self._runs: dict[Name, list[Run]] = {}
        for run in turn.observed.runs:
            self._runs.setdefault(run.name, []).append(run)
        self._seen = turn.observed.by_name("job")

    @property
    def names(self) -> set[Name]:
        """Every name that there is something to say of."""
        under_way = {run.name for run in self._observed.runs if not run.phase.ended}
        held = {one.name for one in self._desired.problems if one.kind == "job" and one.name}
        return {*self._desired.jobs, *under_way, *self._seen, *held}

    def steps(self, held: dict[Name, Problem], vms: dict[Name, Step]) -> list[Step]:
        """One answer for each of `names`, and those of `vms`, which say what is done about a vm that has the name of a
        job: until it is gone, the job waits. `held` are the names whose documents cannot be read, each with why."""
        steps: list[Step] = []
        line: list[tuple[WantedJob, Run | None]] = []
        first: list[Step] = []
        for name in sorted(self.names):
            found = self._decide(name, held.get(name))
            if (vm := vms.get(name)) is not None and not isinstance(found, CancelRun | Destroy):
                first.append(vm)
                found = self._behind(name, vm)
            if isinstance(found, tuple):
                line.append(found)
            elif found is not None:
                steps.append(found)
        return [*first, *(replace(step, kind="job") for step in (*steps, *self._in_line(line)))]

    def _decide(
        self, name: Name, problem: Problem | None
    ) -> Step | tuple[WantedJob, Run | None] | None:
        """What is to be done for a name, or the run of it that stands in line (None: still to be queued)."""
        runs, wanted = self._runs.get(name, []), self._desired.jobs.get(name)
        current = next((run for run in runs if not run.phase.ended), None)
        if current is not None and (why := self._unwanted(current, wanted, problem)):
            return CancelRun(name=name, because=why, source=current.source, run=current.id)
        if (doing := self._observed.busy.get(name)) is not None:
            return self._in_progress(name, doing, current)
        same = [run for run in runs if wanted and run.spec_digest == wanted.spec.digest]
        done = [run for run in same if not _passed_over(run)]
        begins = current is not None or (wanted is not None and not done)
        forgotten = wanted is None and problem is None and not self._desired.unproven
        if (reap := self._unleased(name, runs, kept=not begins and not forgotten)) is not None:
            return reap
        if wanted is not None and not begins and self._leaks(name):
            return Destroy(name=name, because="its run has ended", uids=(), grace=0.0)
        if current is not None and current.phase.active:
            return Resume(
                name=name, because=f"its run {current.number} is under way", run=current.id
            )
        if problem is not None:
            return Hold(name=name, because=str(problem), reason="InvalidDocument")
        if wanted is None:
            if current is None:
                return None
            why = self._desired.unproven or ""
            return Hold(name=name, because=why, reason="AbsenceUnproven")
        if current is None and done:
            return _ended(done[-1], wanted)
        return wanted, current

    def _in_progress(self, name: Name, doing: str, run: Run | None) -> Wait:
        source, reason = run.source if run else None, "InProgress"
        if any(_lives(one) and not one.view.responsive for one in self._seen.get(name, ())):
            doing, reason = f"{doing}; its QEMU does not answer", "Unresponsive"
        return Wait(name=name, because=doing, reason=reason, source=source)

    def _behind(self, name: Name, vm: Step) -> Wait | None:
        """The wait of a job for the vm that still has its name, and its port."""
        if (wanted := self._desired.jobs.get(name)) is None:
            return None
        return _wait(wanted, "NameTaken", f"a vm still has its name: {vm.because}", None)

    def _unwanted(self, current: Run, wanted: WantedJob | None, problem: Problem | None) -> str:
        """Why the run under way is to end, empty where it is to go on."""
        if current.cancel:
            return current.cancel
        if problem is not None:
            return ""
        if wanted is None:
            return "" if self._desired.unproven else "no document names it any more"
        return "" if current.spec_digest == wanted.spec.digest else "its document has changed"

    def _unleased(self, name: Name, runs: list[Run], *, kept: bool) -> Destroy | None:
        """The end of every VM whose run has ended, or is not known. One that is `kept` for a look goes when the next
        run begins, which has the name's port, and with the job's document."""
        leased = {
            run.uid for run in runs if not run.phase.ended or (kept and run.keeps_its_vm(self._now))
        }
        loose = [one for one in self._seen.get(name, []) if one.instance.uid not in leased]
        if not loose:
            return None
        return Destroy(
            name=name,
            because="its run has ended",
            kind="job",
            uids=tuple(one.instance.uid for one in loose),
            grace=0.0,
        )

    def _leaks(self, name: Name) -> bool:
        """Whether a port is leased to the name though nothing of it is there: what was to give it back was cut off."""
        record = self._observed.names.get(name)
        there = any(one.instance.name == name for one in self._observed.instances)
        return record is not None and record.ssh_port is not None and not there

    # The line

    def _in_line(self, line: list[tuple[WantedJob, Run | None]]) -> Iterable[Step]:
        ready: list[tuple[WantedJob, Run | None, Candidate]] = []
        for wanted, run in line:
            left = 0.0 if run is None else _left(run, self._now)
            large = self._births.too_large(_as_vm(wanted))
            wait = None if large else self._fetches.wait(_as_vm(wanted))
            missing = self._fetches.missing(wanted.spec.image)
            if large is not None:
                yield self._enqueue(wanted, large.because) if run is None else large
            elif run is not None and left > 0:
                yield _wait(wanted, "Retrying", f"{run.message}; it is tried again", left)
            elif run is not None and wait is not None:
                yield wait
            elif run is None and (wait is not None or missing is not None):
                yield self._enqueue(wanted, wait.because if wait else "its image is fetched")
            elif missing is not None:
                yield _wait(wanted, "FetchingImage", f"image {missing.label} is asked for", None)
            else:
                ready.append((wanted, run, self._candidate(wanted, run)))
        active = self._active()
        queued = [candidate for _, _, candidate in ready]
        turns = schedule(queued, active.values(), self._room(active))
        order = {one: at for at, one in enumerate(turns.begin)}
        ready.sort(key=lambda one: order.get(one[2].id, len(order)))
        for wanted, run, candidate in ready:
            never = turns.never.get(candidate.id)
            why = never.why if never else turns.waits.get(candidate.id, "")
            if candidate.id in order:
                yield self._begin(wanted, run)
            elif run is None:
                yield self._enqueue(wanted, why)
            else:
                yield _wait(wanted, never.reason if never else "Capacity", why, None)

    def _begin(self, wanted: WantedJob, run: Run | None) -> Step:
        birth = self._births.choose(_as_vm(wanted), None, [], kind="job")
        if isinstance(birth, Wait):
            return self._enqueue(wanted, birth.because) if run is None else birth
        number, attempt = self._number(wanted, run), 1 if run is None else run.attempt + 1
        return Attempt(
            name=wanted.spec.name,
            because=f"attempt {attempt} of run {number}",
            source=wanted.source,
            run=run_id(self._policy.state_id, wanted.spec.name, number),
            number=number,
            spec=wanted.spec,
            birth=birth,
        )

    def _enqueue(self, wanted: WantedJob, waits_for: str) -> Enqueue:
        number = self._number(wanted, None)
        return Enqueue(
            name=wanted.spec.name,
            because=f"run {number} is queued: {waits_for}",
            source=wanted.source,
            run=run_id(self._policy.state_id, wanted.spec.name, number),
            number=number,
            spec=wanted.spec,
        )

    def _number(self, wanted: WantedJob, run: Run | None) -> int:
        if run is not None:
            return run.number
        return max((one.number for one in self._runs.get(wanted.spec.name, [])), default=0) + 1

    def _candidate(self, wanted: WantedJob, run: Run | None) -> Candidate:
        spec = wanted.spec
        number = self._number(wanted, run)
        known = run.id if run else run_id(self._policy.state_id, spec.name, number)
        return self._standing(spec, known, run.queued_at if run else self._now.wall)

    def _standing(self, spec: JobSpec, run: RunId, queued_at: float) -> Candidate:
        """A run as it stands in line, under every word that means its image."""
        own, means = spec.image.label, self._desired.labels
        return Candidate(
            id=run,
            labels=frozenset({spec.runs_on, own, *(w for w in means if means[w] == own)}),
            memory=needed(spec.memory, self._policy.accelerator),
            disk=DISK_PER_RUN,
            priority=spec.priority,
            queued_at=queued_at,
        )

    def _active(self) -> dict[Name, Candidate]:
        """The attempts under way: those that are recorded, and those that were begun and are about to be."""
        begun = {
            name: self._standing(given.attempt[1], given.attempt[0], self._now.wall)
            for name, given in self._observed.given.items()
            if given.attempt is not None
        }
        return begun | {
            run.name: self._standing(JobSpec.from_canonical(run.spec), run.id, run.queued_at)
            for run in self._observed.runs
            if run.phase.active
        }

    def _room(self, active: dict[Name, Candidate]) -> Room:
        """What is left beside the active ones. The host's free memory and disk know those alone that have a process."""
        living = {name for name, seen in self._seen.items() if any(map(_lives, seen))}
        to_come = [one for name, one in active.items() if name not in living]
        memory, disk = self._observed.free_memory, self._observed.free_disk
        return Room(
            places=self._policy.max_concurrency,
            labels=self._policy.capacity,
            memory=None if memory is None else memory - sum(one.memory for one in to_come),
            disk=None if disk is None else disk - sum(one.disk for one in to_come),
        )


def _lives(seen: Seen) -> bool:
    return seen.verdict is Verdict.ALIVE


def _as_vm(wanted: WantedJob) -> WantedVm:
    return WantedVm(machine_spec(wanted.spec), wanted.source)


def may_begin(desired: Desired, runs: Iterable[Run], busy: Collection[Name]) -> bool:
    """Whether a run of a job may begin now, and need a port; names that are `busy` are at something already."""
    done = {
        (run.name, run.spec_digest) for run in runs if run.phase.ended and not _passed_over(run)
    }
    begins = {name for name, job in desired.jobs.items() if (name, job.spec.digest) not in done}
    begins |= {run.name for run in runs if not run.phase.ended}
    return not begins <= set(busy)


def _passed_over(run: Run) -> bool:
    """Whether the run ended before its script ever began, and nobody asked for that: its document was away, or said
    something else for a while."""
    begun = run.started_at is not None or run.spent.interrupted or run.spent.script
    return run.phase is RunPhase.CANCELLED and not begun and not run.cancel


def _left(run: Run, now: Moment) -> float:
    """Seconds until the next try; a wait that began before a reboot is over."""
    if run.boot_id != now.boot_id:
        return 0.0
    return max(0.0, min(run.not_before - now.boottime, 1.1 * backoff.LONGEST))


def _ended(run: Run, wanted: WantedJob) -> Keep:
    again = ""
    if run.phase is RunPhase.CANCELLED:
        # What its document says was begun once, and is not begun twice because the document came back.
        again = f"; `holdfast job rerun {run.name}` runs it again"
    return Keep(
        name=run.name,
        because=run.message + again,
        reason=run.reason or run.phase.value.capitalize(),
        source=wanted.source,
        run=run.id,
    )


def _wait(wanted: WantedJob, reason: str, because: str, until: float | None) -> Wait:
    return Wait(
        name=wanted.spec.name, because=because, reason=reason, source=wanted.source, until=until
    )
