"""The vocabulary of plans: what a step aims at, how a plan is named, and in which order it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.planned import ORDER, Plan
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
    target,
)
from state.desired import SourceRef
from state.ids import Name, Uid
from state.lifecycle import Cause
from tests.builders import vm

WEB, UID, OTHER = Name("web"), Uid("uid-1"), Uid("uid-2")
SPEC, CHANGED = vm(), vm(memory=1 << 30)
BIRTH = Birth(
    uid=UID, generation=1, spec=SPEC, source=SourceRef("web.yaml", 1), accelerator="tcg",
    ssh_port=22000, run_as=None, forwards=(),
)  # fmt: skip
STEPS: list[Step] = [
    Create(name=WEB, because="x", birth=BIRTH),
    Replace(name=WEB, because="x", birth=BIRTH, old=(OTHER,)),
    Destroy(name=WEB, because="x", uids=(UID,), grace=30.0),
    Clear(name=WEB, because="x", uids=(UID,)),
    Restart(
        name=WEB, because="x", uid=UID, spec=SPEC, accelerator="tcg", cause=Cause.EXIT,
        grace=0.0, fault=True,
    ),
    Adopt(name=WEB, because="x", uid=UID),
    Update(name=WEB, because="x", uid=UID, spec=SPEC),
    Power(name=WEB, because="x", uid=UID, spec=SPEC, to="paused", cause=Cause.POWER, grace=0.0),
    Crash(name=WEB, because="x", uid=UID, cause=Cause.EXIT),
    Keep(name=WEB, because="x", reason="Ready"),
    Wait(name=WEB, because="x", reason="BackOff"),
    Hold(name=WEB, because="x", reason="Protected"),
]  # fmt: skip


def test_no_two_steps_aim_at_the_same() -> None:
    """Sabotage: let a restart and an update of one instance share a target; one's failure then delays the other."""
    assert len({target(step) for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_target_is_the_same_however_the_step_came_about(step: Step) -> None:
    assert target(replace(step, because="y", fields=("memory",))) == target(step)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_changed_document_is_another_target(step: Step) -> None:
    match step:
        case Create() | Replace():
            changed: Step = replace(step, birth=replace(BIRTH, spec=CHANGED))
        case Restart() | Update() | Power():
            changed = replace(step, spec=CHANGED)
        case Destroy() | Clear():
            changed = replace(step, uids=(UID, OTHER))
        case Adopt() | Crash():
            changed = replace(step, uid=OTHER)
        case _:
            return
    assert target(changed) != target(step)


def test_only_what_changes_something_acts() -> None:
    assert [step.action for step in STEPS if not step.acts] == ["keep", "wait", "hold"]
    assert Plan(tuple(STEPS)).acting == tuple(STEPS[:-3])


@pytest.mark.parametrize(
    ("step", "awaits"),
    [
        (Keep(name=WEB, because="x", reason="Ready"), False),
        (Hold(name=WEB, because="x", reason="Protected"), False),
        (Wait(name=WEB, because="x", reason="InProgress"), False),
        (Wait(name=WEB, because="x", reason="BackOff", until=3600.0), False),
        (Wait(name=WEB, because="x", reason="ApprovalNeeded"), False),
        (Wait(name=WEB, because="x", reason="PortTaken"), True),
        (Wait(name=WEB, because="x", reason="Capacity", kind="job"), True),
    ],
)
def test_who_waits_for_others_is_known(step: Step, awaits: bool) -> None:
    assert Plan((STEPS[0], step)).awaits is awaits


def test_every_action_has_its_place_in_the_reading_order() -> None:
    assert {step.action for step in STEPS} <= set(ORDER)
    shown = [step.action for step in Plan(tuple(reversed(STEPS))).shown()]
    assert shown == sorted(shown, key=ORDER.index)
    assert shown[0] == "destroy"
    assert shown[-1] == "keep"


def test_names_stand_in_order_within_an_action() -> None:
    keeps = [Keep(name=Name(name), because="x", reason="Ready") for name in ("b", "c", "a")]
    assert [step.name for step in Plan(tuple(keeps)).shown()] == ["a", "b", "c"]


def test_a_plan_is_named_by_what_it_does() -> None:
    create, keep = STEPS[0], STEPS[-3]
    one = Plan((create, keep)).id
    assert one == Plan((create, replace(keep, because="y"))).id
    assert one != Plan((replace(create, because="y"), keep)).id
    assert one != Plan((replace(create, name=Name("db")), keep)).id
    assert one != Plan((create, STEPS[5])).id
    assert Plan((keep,)).id == Plan(()).id
    assert len(one) == 12
    assert int(one, 16) >= 0
