"""What of a plan must not be done now, although it is what the documents ask for: more destruction at once than anybody
is likely to mean, and anything at all while the agent is suspended. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from agent.policy import Policy
from agent.steps import Adopt, Destroy, Fence, Hold, Step, Wait
from state.observed import Observed, Verdict

AT_LEAST = 3
"""VMs that a pass may destroy however few are running."""


def restrained(
    steps: Sequence[Step], observed: Observed, policy: Policy
) -> tuple[tuple[Step, ...], Fence | None]:
    """The steps with those put off that must not be taken, and what waits for a person."""
    if observed.suspended:
        return tuple(map(_suspended, steps)), None
    fenced = [step for step in steps if _loses(step, observed)]
    most = policy.max_destroy
    if most is None:
        # Who runs is only counted where that may matter.
        most = AT_LEAST if len(fenced) <= AT_LEAST else max(AT_LEAST, _running(observed) // 2)
    if len(fenced) <= most:
        return tuple(steps), None
    fence = _fence(fenced)
    why = (
        f"{len(fenced)} VM{'s' * (len(fenced) != 1)} would be destroyed at once, more than {most}"
        f" (`holdfast approve {fence.id}` lets it pass)"
    )
    return tuple(_put_off(step, why) if step in fenced else step for step in steps), fence


def _loses(step: Step, observed: Observed) -> bool:
    """Whether it destroys a VM that nobody has approved to be destroyed."""
    return (
        isinstance(step, Destroy)
        and step.kind == "vm"
        and bool(step.uids)
        and not observed.approved.issuperset(step.uids)
    )


def _running(observed: Observed) -> int:
    return len(
        {
            one.instance.name
            for one in observed.instances
            if one.instance.kind == "vm" and one.verdict is Verdict.ALIVE
        }
    )


def _fence(steps: Sequence[Step]) -> Fence:
    uids = frozenset(uid for step in steps if isinstance(step, Destroy) for uid in step.uids)
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
    if not step.acts or (isinstance(step, Adopt) and step.kind == "vm"):
        return step
    return Hold(
        kind=step.kind,
        name=step.name,
        because=f"{step.action}: {step.because}, but the agent is suspended (`holdfast resume`)",
        reason="Suspended",
        fields=step.fields,
        source=step.source,
    )
