"""What every plan keeps, whatever the world looks like. Each property names the sabotage that it was seen to catch."""

from __future__ import annotations

from hypothesis import given

from agent.plan import plan
from agent.planned import Plan
from agent.steps import Clear, Create, Destroy, Power, Replace, Restart, Wait
from state.desired import Desired
from state.lifecycle import Phase
from state.observed import Observed, RunState, Seen, Verdict
from state.spec.effects import Effect
from state.spec.resolved import VmSpec, changes
from tests.builders import moment
from tests.strategies import POLICY, worlds

World = tuple[Desired, Observed]
NOW = moment(1000.0)


def planned(world: World) -> Plan:
    return plan(*world, POLICY, NOW)


@given(worlds())
def test_every_name_gets_exactly_one_answer_with_a_reason(world: World) -> None:
    """Sabotage: return no step for a held name."""
    desired, observed = world
    names = [step.name for step in planned(world).steps]
    assert len(names) == len(set(names))
    known = {*desired.vms, *observed.names, *(seen.instance.name for seen in observed.instances)}
    known |= {problem.name for problem in desired.problems if problem.name}
    assert set(names) == known
    assert all(step.because for step in planned(world).steps)


@given(worlds())
def test_the_same_world_gives_the_same_plan(world: World) -> None:
    """Sabotage: choose a port by iterating over a set."""
    assert planned(world) == planned(world)
    assert planned(world).id == planned(world).id


@given(worlds())
def test_nothing_is_destroyed_unless_its_absence_is_proven(world: World) -> None:
    """Sabotage: destroy what is missing from `vms` without looking at `unproven` and the problems."""
    desired, _ = world
    held = {problem.name for problem in desired.problems}
    for step in planned(world).steps:
        if isinstance(step, Destroy):
            assert desired.unproven is None
            assert step.name not in held
            assert step.name not in desired.vms


@given(worlds())
def test_a_held_name_is_never_replaced_or_updated(world: World) -> None:
    """Sabotage: plan a held name by its last spec with the replacement path left in."""
    desired, _ = world
    held = {problem.name for problem in desired.problems}
    for step in planned(world).steps:
        if step.name in held and step.name not in desired.vms:
            assert step.action not in ("replace", "destroy")


@given(worlds())
def test_what_is_alive_or_unknown_is_never_created_over(world: World) -> None:
    """Sabotage: create whenever the newest instance never ran, without looking at the verdict."""
    _, observed = world
    by_name = observed.by_name("vm")
    for step in planned(world).steps:
        own = by_name.get(step.name, [])
        if isinstance(step, Create):
            assert all(seen.verdict is Verdict.GONE for seen in own)
        if isinstance(step, Create | Replace | Destroy | Restart):
            assert all(seen.verdict is not Verdict.UNKNOWN for seen in own)
        if isinstance(step, Restart):
            others = [seen for seen in own if seen.instance.uid != step.uid]
            began = [seen for seen in others if seen.instance.started_at is not None]
            assert all(seen.verdict is Verdict.GONE for seen in began)


@given(worlds())
def test_a_replacement_ends_every_older_instance_and_has_a_newer_generation(world: World) -> None:
    """Sabotage: name only the newest of the old instances."""
    _, observed = world
    by_name = observed.by_name("vm")
    for step in planned(world).steps:
        if isinstance(step, Replace):
            others = {seen.instance.uid for seen in by_name[step.name]} - {step.birth.uid}
            assert set(step.old) == others
            old = [s.instance.generation for s in by_name[step.name] if s.instance.uid in step.old]
            assert all(generation < step.birth.generation for generation in old)


@given(worlds())
def test_a_replacement_names_a_field_that_forces_it(world: World) -> None:
    """Sabotage: replace whenever the digests differ."""
    desired, observed = world
    by_name = observed.by_name("vm")
    for step in planned(world).steps:
        if isinstance(step, Replace) and len(by_name[step.name]) == 1:
            assert step.fields
            instance = by_name[step.name][0].instance
            found = changes(VmSpec.from_canonical(instance.spec), desired.vms[step.name].spec)
            forcing = {one.field for one in found if one.effect is Effect.REPLACE}
            base = observed.images.get(step.birth.spec.image)
            moved = {"image"} if base and base.digest != instance.base.digest else set()
            assert set(step.fields) <= forcing | moved


@given(worlds())
def test_no_two_births_share_a_port_or_a_uid_of_the_host(world: World) -> None:
    """Sabotage: forget what this very pass has leased."""
    _, observed = world
    births = [step.birth for step in planned(world).steps if isinstance(step, Create | Replace)]
    ports = [birth.ssh_port for birth in births]
    assert len(ports) == len(set(ports))
    leased = {record.ssh_port: name for name, record in observed.names.items()}
    for birth in births:
        assert leased.get(birth.ssh_port, birth.spec.name) == birth.spec.name
    fresh = [b.run_as for b in births if b.uid not in {s.instance.uid for s in observed.instances}]
    taken = {seen.instance.run_as for seen in observed.instances}
    assert len(fresh) == len(set(fresh))
    assert not taken & set(fresh)


@given(worlds())
def test_a_busy_name_is_waited_for(world: World) -> None:
    """Sabotage: plan without looking at what is under way."""
    _, observed = world
    for step in planned(world).steps:
        if step.name in observed.busy:
            assert isinstance(step, Wait)
            assert step.reason == "InProgress"


@given(worlds())
def test_a_suspended_or_protected_name_is_not_destroyed_or_replaced(world: World) -> None:
    """Sabotage: look at `protect` of the new document only."""
    desired, observed = world
    by_name = observed.by_name("vm")
    for step in planned(world).steps:
        wanted = desired.vms.get(step.name)
        if wanted is not None and wanted.spec.suspend:
            assert step.action in ("keep", "wait", "update")
        if isinstance(step, Destroy):
            specs = [VmSpec.from_canonical(s.instance.spec) for s in by_name.get(step.name, [])]
            assert not any(spec.protect for spec in specs)


@given(worlds())
def test_what_is_wanted_stopped_is_not_started(world: World) -> None:
    """Sabotage: create whatever has no instance, whatever its power."""
    desired, _ = world
    for step in planned(world).steps:
        wanted = desired.vms.get(step.name)
        if wanted is not None and wanted.spec.power == "stopped":
            assert not isinstance(step, Create | Restart)
            assert not (isinstance(step, Power) and step.to != "stopped")


@given(worlds())
def test_a_machine_that_is_as_wanted_is_not_replaced_for_one_that_never_ran(world: World) -> None:
    """Sabotage: compare the document with the newest instance alone."""
    desired, observed = world
    by_name = observed.by_name("vm")
    for step in planned(world).steps:
        if not isinstance(step, Replace):
            continue
        spec = desired.vms[step.name].spec
        own = by_name[step.name]
        while len(own) > 1 and unborn(own[-1]) and own[-1].instance.uid != step.birth.uid:
            own = own[:-1]
            if own[-1].instance.uid in step.old:
                assert forced(own[-1], spec, observed)


@given(worlds())
def test_only_what_never_ran_is_cleared_away(world: World) -> None:
    """Sabotage: clear away everything but the instance that fits."""
    _, observed = world
    seen = {one.instance.uid: one for one in observed.instances}
    for step in planned(world).steps:
        if isinstance(step, Clear):
            assert step.uids
            assert all(unborn(seen[uid]) for uid in step.uids)
            assert len(step.uids) < len(observed.by_name("vm")[step.name])


def unborn(seen: Seen) -> bool:
    return seen.verdict is not Verdict.UNKNOWN and seen.instance.started_at is None


def forced(seen: Seen, spec: VmSpec, observed: Observed) -> bool:
    found = changes(VmSpec.from_canonical(seen.instance.spec), spec)
    base = observed.images.get(spec.image)
    moved = base is not None and base.digest != seen.instance.base.digest
    return moved or any(one.effect is Effect.REPLACE for one in found)


@given(worlds())
def test_nothing_is_started_before_what_it_depends_on_is_ready(world: World) -> None:
    """Sabotage: take a machine that merely runs for ready."""
    _, observed = world
    serving = {
        seen.instance.name
        for seen in observed.instances
        if seen.instance.phase is Phase.RUNNING
        and seen.verdict is Verdict.ALIVE
        and seen.instance.ready_at is not None
        and (seen.view.state, seen.view.responsive) == (RunState.RUNNING, True)
    }
    for step in planned(world).steps:
        if isinstance(step, Create | Replace | Restart):
            spec = step.spec if isinstance(step, Restart) else step.birth.spec
            assert set(spec.depends_on) <= serving
