"""Which names are held, and whose hold has ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.planned import Plan
from agent.steps import Adopt, Crash, Hold, Power, Restart, Step, Unblock, Wait
from state.desired import Desired
from state.history import Finding
from state.ids import Name

Holds = Mapping[Name, str]
"""The kind of each name that is held."""

_BRIEF = "JustGone"
"""The reason of a hold that lasts a second, and whose end is told by what is done then."""


def held(findings: Iterable[Finding]) -> dict[Name, str]:
    """Those that were held when these findings were written."""
    return {
        one.name: one.kind or "vm"
        for one in findings
        if one.scope in ("held", "holding") and one.name and one.reason != _BRIEF
    }


def ended(
    before: Holds, now: Holds, desired: Desired, plan: Plan
) -> tuple[dict[Name, str], dict[Name, Step | None]]:
    """The holds from this pass on, and those that ended with it, each with what becomes of the name."""
    steps = {step.name: step for step in plan.steps} if before else {}
    still = dict(now)
    over: dict[Name, Step | None] = {}
    for name, kind in before.items():
        if name in now:
            continue
        step = steps.get(name)
        unproven = desired.unproven and not (name in desired.vms or name in desired.jobs)
        if unproven or (step is not None and _may_be_of_a_hold(step)):
            still[name] = kind
        else:
            over[name] = step
    return still, over


def _may_be_of_a_hold(step: Step) -> bool:
    """Whether it is also done for what is held, or says nothing of it: what runs is looked after all the while."""
    match step:
        case Hold() | Restart() | Adopt() | Power() | Unblock() | Crash():
            return True
        case Wait(reason=reason):
            return reason in ("InProgress", "BackOff", "DependsOn", "IOError", _BRIEF)
        case _:
            return False
