"""What of a plan must not be done now, although it is what the documents ask for: more destruction at once than anybody
is likely to mean, and anything at all while the agent is suspended. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from agent.planned import Fence
from agent.policy import Policy
from agent.steps import Adopt, Destroy, Hold, Step, Wait
from state.desired import Desired
from state.ids import Name, Uid
from state.observed import Observed, Verdict

AT_LEAST = 3
"""VMs that a pass may destroy however few are running."""


def restrained(
    steps: Sequence[Step], desired: Desired, observed: Observed, policy: Policy
) -> tuple[tuple[Step, ...], Fence | None]:
    """The steps with those put off that must not be taken, and what waits for a person.

    VMs that are busy just now, or that cannot be looked at, count too where nobody wants them: else a few would go in
    this pass and the others one by one after it.
    """
    if observed.suspended:
        return tuple(map(_suspended, steps)), None
    to_go = [step for step in steps if _loses(step, observed)]
    late = _to_go_later(steps, desired, observed) if to_go else {}
    fenced = {**{step.name: step.uids for step in to_go}, **late}
    most = policy.max_destroy
    if most is None:
        # Who runs is only counted where that may matter.
        most = AT_LEAST if len(fenced) <= AT_LEAST else max(AT_LEAST, _running(observed) // 2)
    if len(fenced) <= most:
        return tuple(steps), None
    fence = _fence(fenced.values())
    why = (
        f"{len(fenced)} VM{'s' * (len(fenced) != 1)} would be destroyed at once, more than {most}"
        f" (`holdfast approve {fence.id}` lets it pass)"
    )
    return tuple(_put_off(step, why) if step in to_go else step for step in steps), fence


def _loses(step: Step, observed: Observed) -> TypeGuard[Destroy]:
    """Whether it destroys a VM that nobody has approved to be destroyed."""
    return (
        isinstance(step, Destroy)
        and step.kind == "vm"
        and not observed.approved.issuperset(step.uids)
    )


def _to_go_later(
    steps: Sequence[Step], desired: Desired, observed: Observed
) -> dict[Name, tuple[Uid, ...]]:
    """The VMs beside those of Destroy steps that a readable tree lacks and that nobody has approved to be destroyed.
    Those that are being destroyed have been let go before."""
    waiting = {
        step.name
        for step in steps
        if isinstance(step, Wait)
        and step.reason in ("InProgress", "Unknown")
        and step.name not in desired.vms
        and not step.because.startswith("destroy")
    }
    found: dict[Name, tuple[Uid, ...]] = {}
    for one in observed.instances:
        instance = one.instance
        if instance.kind == "vm" and instance.name in waiting:
            found[instance.name] = (*found.get(instance.name, ()), instance.uid)
    return {name: uids for name, uids in found.items() if not observed.approved.issuperset(uids)}


def _running(observed: Observed) -> int:
    return len(
        {
            one.instance.name
            for one in observed.instances
            if one.instance.kind == "vm" and one.verdict is Verdict.ALIVE
        }
    )


def _fence(fenced: Iterable[Iterable[Uid]]) -> Fence:
    uids = frozenset(uid for uids in fenced for uid in uids)
    said = json.dumps(sorted(uids))
    return Fence(hashlib.sha256(said.encode()).hexdigest()[:12], uids)


def _put_off(step: Step, why: str) -> Step:
    return Wait(
        kind=step.kind,
        name=step.name,
        because=f"{step.action}: {step.because}, but {why}",
        reason="ApprovalNeeded",
        fields=step.fields,
        source=step.source,
    )


def _suspended(step: Step) -> Step:
    """A machine is supervised all the same: that does not touch it."""
    if not step.acts or isinstance(step, Adopt):
        return step
    return Hold(
        kind=step.kind,
        name=step.name,
        because=f"{step.action}: {step.because}, but the agent is suspended (`holdfast resume`)",
        reason="Suspended",
        fields=step.fields,
        source=step.source,
    )
