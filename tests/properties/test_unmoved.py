"""What is remembered of the last pass is what would be decided anew. Each property names the sabotage that it was seen
to catch."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from agent.plan import plan
from agent.unmoved import Decided
from state.desired import Desired
from state.ids import Name
from state.observed import NameRecord, Observed, RunState, Seen, Verdict, View
from tests.builders import BASE, IMAGE, desired, job, moment, process, run, running, vm, wanted_jobs
from tests.strategies import NAMES, OTHER_BASE, POLICY, worlds

World = tuple[Desired, Observed]
NOW, LATER = moment(1000.0), moment(1001.0)
MOMENTS = (LATER, moment(1300.0), moment(1001.0, "boot-2"))


def at_rest(names: list[Name]) -> World:
    """Vms that are ready, as their documents say."""
    specs = [vm(name) for name in names]
    seen = [
        Seen(
            running(spec, ssh_port=None, forwards=(), process=process(4000 + at)),
            Verdict.ALIVE,
            View(RunState.RUNNING),
            attached=True,
        )
        for at, spec in enumerate(specs)
    ]
    records = {name: NameRecord(name, 1) for name in names}
    return desired(*specs), Observed(instances=tuple(seen), names=records, images={IMAGE: BASE})


@st.composite
def moved(draw: st.DrawFn, world: World) -> World:
    """The world, with some of what another one is like."""
    wanted, observed = world
    other, found = draw(worlds())
    vms = dict(wanted.vms)
    for name in draw(st.sets(st.sampled_from(NAMES))):
        vms.pop(name, None)
        vms |= {name: other.vms[name]} if name in other.vms else {}
    if vms != wanted.vms:
        wanted = replace(wanted, vms=vms)
    if draw(st.booleans()):
        wanted = replace(wanted, problems=other.problems, unproven=other.unproven)
    of_others = draw(st.sets(st.sampled_from(NAMES)))
    kept = [one for one in observed.instances if one.instance.name not in of_others]
    kept += [one for one in found.instances if one.instance.name in of_others]
    changed = draw(st.sets(st.sampled_from([f.name for f in fields(Observed)])))
    values = {name: getattr(found, name) for name in changed - {"instances"}}
    others: dict[str, object] = {
        "suspended": True,
        "approved": frozenset(one.instance.uid for one in kept),
        "runs": (run(),),
        "free_disk": 0,
    }
    values |= {name: others[name] for name in draw(st.sets(st.sampled_from(sorted(others))))}
    if draw(st.booleans()):
        name = draw(st.sampled_from(NAMES))
        left = {one: vm for one, vm in wanted.vms.items() if one != name}
        wanted = replace(wanted, vms=left, jobs=wanted_jobs(job(name)))
    return wanted, replace(observed, **values | {"instances": tuple(kept)})


@given(st.data(), st.one_of(worlds(), st.just(at_rest(NAMES))))
def test_a_plan_is_the_same_whatever_the_last_one_was(data: st.DataObject, first: World) -> None:
    """Sabotage: look neither at the images nor at who is busy; keep whatever a plan has kept; compare no instances."""
    before = Decided(*first, plan(*first, POLICY, NOW))
    second, later = data.draw(moved(first)), data.draw(st.sampled_from(MOMENTS))
    assert plan(*second, POLICY, later, before) == plan(*second, POLICY, later)


def test_what_was_at_rest_is_not_decided_again() -> None:
    """Sabotage: hold nothing for unmoved, or everything."""
    world = at_rest(NAMES)
    wanted, observed = world
    before = Decided(*world, plan(*world, POLICY, NOW))
    assert before.at_rest.keys() == set(NAMES)
    again = replace(observed, instances=tuple(Seen(*one) for one in observed.instances))
    assert plan(wanted, again, POLICY, LATER, before) is before.plan

    silent = observed.instances[0]._replace(view=View(RunState.RUNNING, responsive=False))
    other = replace(observed, instances=(silent, *observed.instances[1:]))
    found = plan(wanted, other, POLICY, LATER, before)
    assert found == plan(wanted, other, POLICY, LATER) != before.plan
    kept = [step for step in found.steps if step.name != silent.instance.name]
    assert len(kept) == len(NAMES) - 1
    assert all(step is before.at_rest[step.name] for step in kept)


def test_a_run_a_name_or_an_image_that_came_or_went_is_seen_where_all_else_is_at_rest() -> None:
    """Sabotage: compare the instances alone."""
    wanted, observed = world = at_rest(NAMES)
    before = Decided(*world, plan(*world, POLICY, NOW))
    for changed in (
        replace(observed, runs=(run(),)),
        replace(
            observed,
            names={**observed.names, Name("left"): NameRecord(Name("left"), 1, 22001)},
        ),
        replace(observed, busy={NAMES[0]: "restart: by hand"}),
        replace(observed, images={}),
        replace(observed, images={IMAGE: OTHER_BASE}),
    ):
        found = plan(wanted, changed, POLICY, LATER, before)
        assert found == plan(wanted, changed, POLICY, LATER)
        assert found != before.plan


def test_what_only_time_changes_is_decided_anew() -> None:
    """Sabotage: keep whatever a plan has kept."""
    wanted, observed = at_rest(NAMES)
    booting = [
        one._replace(instance=replace(one.instance, ready_at=None)) for one in observed.instances
    ]
    world = wanted, replace(observed, instances=tuple(booting))
    before = Decided(*world, plan(*world, POLICY, moment(10.0)))
    assert {step.because for step in before.plan.steps} == {"it does not answer over SSH yet"}
    found = plan(*world, POLICY, NOW, before)
    assert found == plan(*world, POLICY, NOW) != before.plan


def test_an_image_that_is_missing_has_only_those_decided_anew_that_want_it() -> None:
    """Sabotage: remember nothing where any image is missing."""
    wanted, observed = at_rest(NAMES[:3])
    other = replace(IMAGE, label="other", source="https://images.example/other.qcow2")
    more = vm(NAMES[3], image=other)
    world = replace(wanted, vms={**wanted.vms, **desired(more).vms}), observed
    before = Decided(*world, plan(*world, POLICY, NOW))
    found = plan(*world, POLICY, LATER, before)
    assert found == plan(*world, POLICY, LATER)
    assert found.fetches == (other,)
    kept = [step for step in found.steps if step.name != more.name]
    assert all(step is before.at_rest[step.name] for step in kept)


def test_an_image_that_was_missing_then_too_is_asked_for_again() -> None:
    """Sabotage: only look whether it is the one of then."""
    wanted, observed = at_rest(NAMES)
    gone = replace(observed, images={})
    before = Decided(wanted, gone, plan(wanted, gone, POLICY, NOW))
    assert before.at_rest.keys() == set(NAMES)
    for fetching, asked in (({}, (IMAGE,)), ({IMAGE: "3%"}, ())):
        found = plan(wanted, replace(gone, fetching=fetching), POLICY, LATER, before)
        assert found.fetches == asked
        silent = gone.instances[0]._replace(view=View(RunState.RUNNING, responsive=False))
        other = replace(gone, instances=(silent, *gone.instances[1:]), fetching=fetching)
        assert plan(wanted, other, POLICY, LATER, before).fetches == asked
