"""What of a plan must not be done: too much destruction at once, and everything while the agent is suspended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import plan
from agent.planned import Plan
from agent.policy import Policy
from agent.steps import Adopt, Destroy, Hold, Wait, target
from state.desired import Desired
from state.ids import Name
from state.observed import Observed, Retry, Seen, Verdict, step_key
from tests.builders import STATE_ID, desired, job, moment, running, vm
from tests.strategies import POLICY, worlds

MANY = [f"vm-{number}" for number in range(10)]


def world(names: Sequence[str], verdict: Verdict = Verdict.ALIVE) -> Observed:
    seen = tuple(Seen(running(vm(name)), verdict, attached=True) for name in names)
    return Observed(instances=seen)


def planned(wanted: Desired, observed: Observed, max_destroy: int | None = None) -> Plan:
    policy = Policy(STATE_ID, "tcg", max_destroy=max_destroy)
    return plan(wanted, observed, policy, moment())


def destroyed(found: Plan) -> list[str]:
    return [step.name for step in found.steps if isinstance(step, Destroy)]


def kept(names: Sequence[str]) -> Desired:
    return desired(*map(vm, names))


@pytest.mark.parametrize(
    ("there", "left", "passes"),
    [
        (10, 5, True),
        (10, 4, False),
        (3, 0, True),
        (4, 1, True),
        (4, 0, False),
        (7, 4, True),
        (9, 5, True),
        (9, 4, False),
    ],
)
def test_half_of_what_runs_may_go_at_once_and_three_in_any_case(
    there: int, left: int, passes: bool
) -> None:
    found = planned(kept(MANY[:left]), world(MANY[:there]))
    assert destroyed(found) == (MANY[left:there] if passes else [])
    assert (found.fence is None) is passes


@pytest.mark.parametrize("why", ["busy", "unknown"])
def test_those_that_only_go_later_count_too(why: str) -> None:
    """Sabotage: count what this pass destroys. After a reboot a fleet goes a few at a time, as its VMs come up."""
    observed = world(MANY)
    if why == "busy":
        observed = replace(observed, busy=dict.fromkeys(map(Name, MANY[2:]), "restart: it ended"))
    else:
        late = world(MANY[2:], Verdict.UNKNOWN).instances
        observed = replace(observed, instances=(*world(MANY[:2]).instances, *late))
    found = planned(desired(), observed)
    assert destroyed(found) == []
    assert found.fence is not None
    assert len(found.fence.uids) == 10
    # Those that are destroyed already were let pass before.
    going = dict.fromkeys(map(Name, MANY[2:]), "destroy: no document names it any more")
    assert destroyed(planned(desired(), replace(observed, busy=going))) == MANY[:2]
    approved = replace(observed, approved=found.fence.uids)
    assert destroyed(planned(desired(), approved)) == MANY[:2]


def of_jobs(names: Sequence[str]) -> tuple[Seen, ...]:
    """Machines of jobs, whose runs are not known any more."""
    return tuple(
        one._replace(instance=replace(one.instance, kind="job")) for one in world(names).instances
    )


@pytest.mark.parametrize("others", ["gone", "unknown", "of jobs"])
def test_half_is_of_the_vms_that_are_known_to_run(others: str) -> None:
    """Sabotage: count whatever there is. The few that still run after a crash go at once."""
    rest = {
        "gone": world(MANY[4:], Verdict.GONE).instances,
        "unknown": world(MANY[4:], Verdict.UNKNOWN).instances,
        "of jobs": of_jobs(MANY[4:]),
    }[others]
    observed = Observed(instances=(*world(MANY[:4]).instances, *rest))
    wanted = desired() if others == "of jobs" else kept(MANY[4:])
    found = planned(wanted, observed)
    assert found.fence is not None
    assert len(found.fence.uids) == 4
    assert destroyed(found) == (MANY[4:] if others == "of jobs" else []), "those have ended anyway"


def test_others_that_are_busy_or_let_go_before_do_not_count() -> None:
    """Sabotage, each: count those that are wanted, that are approved, that fail to go, that are a job's."""
    wanted, approved, failing, jobs = MANY[1:3], MANY[3:5], MANY[5:7], MANY[7:]
    late = world(approved, Verdict.UNKNOWN).instances
    observed = Observed(
        instances=(*world([MANY[0], *wanted, *failing]).instances, *late, *of_jobs(jobs)),
        busy=dict.fromkeys(map(Name, (*wanted, *jobs)), "update: it is being done"),
        approved=frozenset(one.instance.uid for one in late),
    )
    free = planned(kept(wanted), observed, max_destroy=10)
    assert destroyed(free) == [MANY[0], *failing]
    tried = [
        Retry(step_key(one.name, "destroy"), target(one), 2, moment().boottime + 60, "boot-1", "no")
        for one in free.steps
        if one.name in failing
    ]
    observed = replace(observed, retries={one.key: one for one in tried})
    found = planned(kept(wanted), observed, max_destroy=1)
    assert (destroyed(found), found.fence) == ([MANY[0]], None)
    reasons = [getattr(step, "reason", "") for step in found.steps]
    busy, late_ones, back_off = ["InProgress"] * 2, ["Unknown"] * 2, ["BackOff"] * 2
    assert reasons == ["", *busy, *late_ones, *back_off, *["InProgress"] * 3]


@pytest.mark.parametrize("verdict", [Verdict.ALIVE, Verdict.UNKNOWN])
def test_a_vm_that_is_being_replaced_is_let_go_with_all_there_is_of_it(verdict: Verdict) -> None:
    """Sabotage: take the approval of an instance for one of its name."""
    old, new = (Seen(running(vm("web"), generation=one), verdict, attached=True) for one in (1, 2))
    observed = Observed(instances=(*world(MANY[:1]).instances, old, new))
    for one in (old, new):
        half = replace(observed, approved=frozenset({one.instance.uid}))
        assert destroyed(planned(desired(), half, max_destroy=1)) == []
    both = replace(observed, approved=frozenset({old.instance.uid, new.instance.uid}))
    found = planned(desired(), both, max_destroy=1)
    assert destroyed(found) == [MANY[0], *["web"] * (verdict is Verdict.ALIVE)]


def test_what_waits_says_for_what_and_how_it_passes() -> None:
    found = planned(kept(MANY[6:]), world(MANY))
    assert found.fence is not None
    [step] = [step for step in found.steps if step.name == "vm-0"]
    assert isinstance(step, Wait)
    assert (step.reason, step.because) == (
        "ApprovalNeeded",
        "destroy: no document names it any more, but 6 VMs would be destroyed at once, more than 5"
        f" (`holdfast approve {found.id}` lets it pass)",
    )
    assert found.id == found.fence.id


def test_an_operator_says_how_many() -> None:
    assert destroyed(planned(kept(MANY[1:]), world(MANY), max_destroy=0)) == []
    assert len(destroyed(planned(desired(), world(MANY), max_destroy=10))) == 10


def test_what_is_approved_passes_and_nothing_else() -> None:
    held = planned(kept(MANY[6:]), world(MANY))
    assert held.fence is not None
    observed = replace(world(MANY), approved=held.fence.uids)
    assert destroyed(planned(kept(MANY[6:]), observed)) == MANY[:6]
    more = planned(desired(job()), observed, max_destroy=3)
    assert destroyed(more) == MANY[:6], "the other four wait"
    assert more.fence is not None
    assert more.fence.id != held.fence.id
    # As they go, fewer run; what is approved stays so.
    fewer = replace(world(MANY[4:]), approved=held.fence.uids)
    assert destroyed(planned(kept(MANY[6:]), fewer)) == MANY[4:6]


def test_the_id_stays_while_other_things_change() -> None:
    one = planned(kept(MANY[6:]), world(MANY))
    other = planned(desired(*map(vm, MANY[6:]), vm("new"), job()), world(MANY))
    assert one.id == other.id
    ids = {planned(kept(MANY[at:]), world(MANY), max_destroy=0).id for at in range(1, 11)}
    assert len(ids) == 10, "each is of other VMs"


def test_a_job_that_takes_a_name_and_machines_of_jobs_are_counted_by_what_is_lost() -> None:
    wanted = desired(*(job(name) for name in MANY[:6]), *map(vm, MANY[6:]))
    assert destroyed(planned(wanted, world(MANY))) == []


@given(worlds(), st.integers(0, 3))
def test_never_more_than_is_allowed_is_destroyed(some: tuple[Desired, Observed], most: int) -> None:
    """Sabotage: count the steps after the first of them was let through."""
    found = plan(*some, replace(POLICY, max_destroy=most), moment())
    assert len([step for step in found.steps if isinstance(step, Destroy) and step.uids]) <= most
    free = plan(*some, replace(POLICY, max_destroy=1 << 30), moment())
    waits = {step.name for step in found.steps if getattr(step, "reason", "") == "ApprovalNeeded"}
    other = [step for step in found.steps if step.name not in waits]
    assert other == [step for step in free.steps if step.name not in waits]


@given(worlds())
def test_suspended_nothing_is_done_but_to_look_after_what_runs(
    some: tuple[Desired, Observed],
) -> None:
    """Sabotage: suspend the steps of vms alone; or supervise nothing any more."""
    wanted, observed = some
    found = plan(wanted, replace(observed, suspended=True), POLICY, moment())
    free = plan(wanted, observed, POLICY, moment())
    assert found.fetches == ()
    assert all(isinstance(step, Adopt) for step in found.acting)
    for before, step in zip(free.steps, found.steps, strict=True):
        if step != before:
            assert isinstance(step, Hold)
            assert not isinstance(before, Adopt)
            assert (step.name, step.kind, step.reason) == (before.name, before.kind, "Suspended")
