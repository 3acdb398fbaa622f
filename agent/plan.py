"""plan(desired, observed, policy, now): what to do in one pass, and why every other name is left alone.

Pure: the same arguments give the same plan, and every choice is in it. What `holdfast plan` prints is this plan, and
what the agent does is this plan. It decides over names; `agent.upkeep` cares for what serves under one, and
`agent.births` says what a new instance is given.
"""

from __future__ import annotations

from dataclasses import replace

from agent import backoff
from agent.dependencies import Dependencies
from agent.jobs.plan import JobsPass
from agent.planned import Plan
from agent.policy import Policy
from agent.restraint import restrained
from agent.steps import Clear, Destroy, Hold, Keep, Replace, Starting, Step, Update, Wait, target
from agent.turn import Turn
from agent.unmoved import Decided, Unmoved
from agent.upkeep import Upkeep
from state.clock import Moment
from state.desired import Desired, Problem, WantedVm
from state.ids import Name
from state.observed import Instance, Observed, Seen, Verdict, step_key
from state.spec.effects import Effect
from state.spec.resolved import ImageSpec, VmSpec, changes


def plan(
    desired: Desired,
    observed: Observed,
    policy: Policy,
    now: Moment,
    before: Decided | None = None,
) -> Plan:
    """One answer for every name that is wanted, held or remembered. `before`, what the last pass has decided, saves
    work and changes no answer."""
    if before is not None and before.holds(desired, observed):
        return before.plan
    turn = Turn.of(desired, observed, policy, now)
    return _Pass(turn, Unmoved(turn, before)).whole()


class _Pass:
    """One run of the planner; its only memory is what it has given away already."""

    def __init__(self, turn: Turn, unmoved: Unmoved) -> None:
        self._turn, self._unmoved = turn, unmoved
        self._desired, self._observed, self._seen = turn.desired, turn.observed, turn.vms
        self._upkeep = Upkeep(turn)
        self._jobs = JobsPass(turn)
        self._problems: dict[Name, Problem] = {}
        for problem in turn.desired.problems:
            if problem.name is not None:
                self._problems.setdefault(problem.name, problem)

    def whole(self) -> Plan:
        """Every name's step, and the images that some of them wait for."""
        steps, fence = restrained(self._steps(), self._desired, self._observed, self._turn.policy)
        fetches = () if self._observed.suspended else self._turn.fetches.asked
        return Plan(steps=steps, fetches=fetches, fence=fence)

    def _steps(self) -> tuple[Step, ...]:
        leased = {name for name, record in self._observed.names.items() if record.ssh_port}
        jobs = self._jobs.names
        # In the order of the documents, which is nearly that of names.
        every = dict.fromkeys((*self._desired.vms, *self._problems, *self._seen, *leased))
        names = [name for name in every if name not in jobs]
        steps = [self._decide(name) for name in sorted(names)]
        dependencies = Dependencies(self._desired, self._seen, steps)
        steps = [self._in_order(step, dependencies) for step in steps]
        # A vm whose name a job has now goes first.
        left = {name: self._decide(name) for name in sorted(jobs & self._seen.keys())}
        steps += self._jobs.steps(self._problems, left)
        return tuple(map(self._patiently, sorted(steps, key=lambda step: step.name)))

    def _in_order(self, step: Step, dependencies: Dependencies) -> Step:
        """The step, or the wait for those that its vm depends on."""
        if not isinstance(step, Starting):
            return step
        if (wait := dependencies.wait(step)) is None:
            return step
        if (
            isinstance(step, Replace)
            and (meanwhile := self._upkeep.meanwhile(step.name)) is not None
        ):
            return self._in_order(meanwhile, dependencies)
        return wait

    def _patiently(self, step: Step) -> Step:
        """The step, or the wait for its next try where the very same has failed before."""
        if not step.acts:
            return step
        retry = self._observed.retries.get(step_key(step.name, step.action))
        if retry is None or retry.what != target(step):
            return step
        if (left := backoff.remaining(retry, self._turn.now)) <= 0:
            return step
        if isinstance(step, Replace) or (isinstance(step, Update) and not step.spec.suspend):
            meanwhile = self._upkeep.meanwhile(step.name)
            # The same action has the same next try.
            if meanwhile is not None and meanwhile.action != step.action:
                return self._patiently(meanwhile)
        return Wait(
            kind=step.kind,
            name=step.name,
            because=f"{retry.error}; {backoff.tried(retry)} so far",
            reason="BackOff",
            fields=step.fields,
            source=step.source,
            until=left,
        )

    def _decide(self, name: Name) -> Step:
        wanted = self._desired.vms.get(name)
        if (doing := self._observed.busy.get(name)) is not None:
            source = wanted.source if wanted else None
            return Wait(name=name, because=doing, reason="InProgress", source=source)
        if (problem := self._problems.get(name)) is not None:
            return self._held(name, problem.reason, str(problem))
        if (step := self._unmoved.step(name)) is not None:
            return step
        seen = self._seen.get(name, [])
        if wanted is None:
            if self._desired.unproven is not None:
                return self._held(name, "AbsenceUnproven", self._desired.unproven)
            return self._absent(name, seen)
        if wanted.spec.suspend:
            return self._suspended(wanted, seen)
        return self._wanted(wanted, seen)

    # What is not wanted, or cannot be told

    def _held(self, name: Name, reason: str, why: str) -> Step:
        """Leave it as it is: nothing new, nothing changed, nothing removed. What ran goes on running by its own spec,
        since a broken document is no reason to let a machine that died stay dead."""
        step = self._upkeep.by_its_own(name)
        if step is not None and (step.acts or isinstance(step, Wait)):
            return step
        return Hold(name=name, because=why, reason=reason)

    def _absent(self, name: Name, seen: list[Seen]) -> Step:
        specs = [one.instance.vm_spec for one in seen]
        source = seen[-1].instance.source if seen else None
        why = "no document names it any more"
        if name in self._desired.jobs:
            why = "its document asks for a job now"
        if any(spec.protect for spec in specs):
            return self._upkeep.meanwhile(name) or Hold(
                name=name,
                because=f"{why}, but it is protected",
                reason="Protected",
                source=source,
            )
        if any(one.verdict is Verdict.UNKNOWN for one in seen):
            return Wait(
                name=name,
                because=f"{why}, but its process cannot be looked at",
                reason="Unknown",
                source=source,
            )
        return Destroy(
            name=name,
            because=why,
            source=source,
            uids=tuple(one.instance.uid for one in seen),
            grace=max((spec.stop_timeout for spec in specs), default=0.0),
        )

    def _suspended(self, wanted: WantedVm, seen: list[Seen]) -> Step:
        """Leave it alone. That it is suspended is noted, for a time when its document cannot be read."""
        if seen:
            # The one that bears the name: the newest that is not gone, else the newest.
            living = (one for one in reversed(seen) if one.verdict is not Verdict.GONE)
            one = next(living, seen[-1])
            old = one.instance.vm_spec
            if not old.suspend:
                return Update(
                    name=old.name,
                    because="suspend false -> true",
                    fields=("suspend",),
                    source=one.instance.source,
                    uid=one.instance.uid,
                    spec=replace(old, suspend=True),
                )
        return Keep(
            name=wanted.spec.name,
            because="suspend is true",
            reason="Suspended",
            source=wanted.source,
        )

    # What is wanted

    def _wanted(self, wanted: WantedVm, seen: list[Seen]) -> Step:
        spec = wanted.spec
        if not seen:
            return self._upkeep.unstarted(wanted, None)
        if self._turn.fetches.missing(spec.image) and (
            spec.image.digest is None or _stands(spec.image, seen)
        ):
            # What its source holds now is not known, and only after a fetch can it be told whether that is a change; or
            # what its disk stands on is gone, or no longer what it was.
            self._turn.fetches.ask_for(spec.image)
        latest = seen[-1]
        because, fields = self._forced(latest.instance, spec)
        if fields:
            return self._dropped(wanted, seen) or self._replace(wanted, seen, because, fields)
        if len(seen) > 1:
            old = seen[-2].instance.vm_spec
            forcing = [change for change in changes(old, spec) if change.effect is Effect.REPLACE]
            return self._replace(
                wanted,
                seen,
                ", ".join(map(str, forcing)) or "a replacement was begun",
                tuple(change.field for change in forcing),
                resume=latest.instance,
            )
        return self._upkeep.kept(wanted, latest)

    def _forced(self, instance: Instance, spec: VmSpec) -> tuple[str, tuple[str, ...]]:
        """Why the instance cannot become `spec` without being replaced, and the fields that say so; empty when it
        can."""
        base = self._observed.images.get(spec.image)
        moved = base is not None and base.digest != instance.base.digest
        if instance.spec_digest == spec.digest and not moved:
            return "", ()
        forcing = [
            change for change in changes(instance.vm_spec, spec) if change.effect is Effect.REPLACE
        ]
        fields = dict.fromkeys(change.field for change in forcing)
        said = [str(change) for change in forcing]
        if moved and base is not None and "image" not in fields:
            fields["image"] = None
            said.append(f"image {instance.base.digest[:19]} -> {base.digest[:19]}")
        return ", ".join(said), tuple(fields)

    def _dropped(self, wanted: WantedVm, seen: list[Seen]) -> Step | None:
        """Clear away a replacement that never ran, where what it was to replace is again what is wanted."""
        for at in reversed(range(len(seen) - 1)):
            newer = seen[at + 1 :]
            inert = all(
                one.instance.started_at is None and one.verdict is not Verdict.UNKNOWN
                for one in newer
            )
            if inert and not self._forced(seen[at].instance, wanted.spec)[1]:
                return Clear(
                    name=wanted.spec.name,
                    because=f"generation {seen[at].instance.generation} is what is wanted again",
                    source=wanted.source,
                    uids=tuple(one.instance.uid for one in newer),
                )
        return None

    def _replace(
        self,
        wanted: WantedVm,
        seen: list[Seen],
        because: str,
        fields: tuple[str, ...],
        *,
        resume: Instance | None = None,
    ) -> Step:
        spec = wanted.spec
        old = [one for one in seen if resume is None or one.instance.uid != resume.uid]
        if any(one.instance.vm_spec.protect for one in old) and spec.protect:
            return self._upkeep.meanwhile(spec.name) or Hold(
                name=spec.name,
                because=f"it would be replaced ({because}), but it is protected",
                reason="Protected",
                fields=fields,
                source=wanted.source,
            )
        if any(one.verdict is Verdict.UNKNOWN for one in seen):
            return Wait(
                name=spec.name,
                because=f"to be replaced ({because}), but its process cannot be looked at",
                reason="Unknown",
                fields=fields,
                source=wanted.source,
            )
        birth = self._turn.births.choose(wanted, resume, seen)
        if isinstance(birth, Wait):
            # Two may want each other's ports.
            return self._upkeep.meanwhile(spec.name, gives_way=birth.reason == "PortTaken") or birth
        if (wait := self._turn.fetches.wait(wanted)) is not None:
            return self._upkeep.meanwhile(spec.name) or wait
        return Replace(
            name=spec.name,
            because=because,
            fields=fields,
            source=wanted.source,
            birth=birth,
            old=tuple(one.instance.uid for one in old),
            fetch=self._turn.fetches.missing(spec.image),
        )


def _stands(image: ImageSpec, seen: list[Seen]) -> bool:
    """Whether a disk stands on the image. One that is larger than its map allows by now is no less there for what
    stands on it."""
    return any(
        one.instance.started_at is not None and one.instance.base.virtual_size <= image.max_size
        for one in seen
    )
