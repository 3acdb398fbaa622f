"""Whether a pass found everything come to rest, and whether it came to rest well: when `run --once` may leave. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

from agent.planned import ACTING, Plan
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
)
from state.desired import Desired
from state.ids import Name
from state.observed import Observed, image_key, step_key, vm_key
from state.runs import RunPhase

_UNDER_WAY = frozenset(
    {"Booting", "Connecting", "InProgress", "FetchingImage", "Capacity", "Retrying"}
)
"""What comes to an end by itself: the retries of a run are counted."""
_WELL = frozenset({"Ready", "Running", "Stopped", "Paused", "Suspended", "GuestPoweredOff"})
_READY = frozenset({"Ready", "Running"})
_TRIES = 3
"""Failures of one thing after which it has failed, though the agent would try on."""


def amiss(desired: Desired, observed: Observed, plan: Plan) -> list[str] | None:
    """None: not at rest yet. Else what is not well, of names and of documents, each a sentence part."""
    if plan.fetches or desired.source.pending:
        return None
    answers = {step.name: _of(step, desired, observed) for step in plan.steps}
    answers |= _depending(plan.steps, desired, answers)
    if None in answers.values():
        return None
    found = [f"{step.name}: {step.because}" for step in plan.steps if not answers[step.name]]
    found += [one for one in (desired.source.error, desired.source.refused) if one is not None]
    told = " ".join(found)
    return found + [str(one) for one in desired.problems if str(one) not in told]


def _of(step: Step, desired: Desired, observed: Observed) -> bool | None:
    match step:
        case Keep(reason=reason) | Wait(reason=reason) if reason in _UNDER_WAY:
            return None
        case Wait(kind="job", reason="Unresponsive"):
            return None  # its clocks end it
        case Keep(kind="job"):
            return _succeeded(step, desired, observed)
        case Keep(reason=reason):
            return reason in _WELL
        case Wait():
            return _waiting(step, desired, observed)
        case Hold():
            return False
        case Create() | Replace() | Destroy() | Clear() | Restart():
            return None
        case Adopt() | Update() | Power() | Unblock() | Crash():
            return None
        case Enqueue() | Attempt() | Resume() | CancelRun():
            return None
    assert_never(step)


def _depending(
    steps: Iterable[Step], desired: Desired, answers: Mapping[Name, bool | None]
) -> dict[Name, bool | None]:
    """The answers for what waits for others to be ready: None while these may still become so."""
    waiting = {
        step.name: desired.vms[step.name].spec.depends_on
        for step in steps
        if isinstance(step, Wait) and step.reason == "DependsOn" and step.name in desired.vms
    }
    ready = {step.name for step in steps if isinstance(step, Keep) and step.reason in _READY}
    # Whoever is well and not ready, such as a vm that is to be stopped, does not become ready by itself.
    may = {name for name, answer in answers.items() if answer is None} | ready | waiting.keys()
    before = None
    while before != may:
        before = may
        may = may - {name for name, others in waiting.items() if not may.issuperset(others)}
    return {name: None if name in may else False for name in waiting}


def _waiting(step: Wait, desired: Desired, observed: Observed) -> bool | None:
    """None where what is waited for comes by itself, or is tried again; False where it has failed."""
    if step.reason not in ("BackOff", "ImageUnavailable"):
        return False
    wanted = desired.vms.get(step.name) or desired.jobs.get(step.name)
    keys = [vm_key(step.name), *(step_key(step.name, action) for action in ACTING)]
    keys += [image_key(wanted.spec.image)] if wanted else []
    tries = [observed.retries[key].failures for key in keys if key in observed.retries]
    # Without any, a name is held that waits for the image of its own, older spec.
    return False if max(tries, default=_TRIES) >= _TRIES else None


def _succeeded(step: Keep, desired: Desired, observed: Observed) -> bool:
    """Whether the latest run of what the job's document says has succeeded. Its reason does not tell: a guest that
    powers itself off is well for a vm, and cuts off a run."""
    wanted = desired.jobs.get(step.name)
    phases = [
        run.phase
        for run in observed.runs
        if run.name == step.name and (wanted is None or run.spec_digest == wanted.spec.digest)
    ]
    return phases[-1:] == [RunPhase.SUCCEEDED]
