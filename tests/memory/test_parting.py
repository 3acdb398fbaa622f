"""What an agent that leaves does to its VMs where it is told to take them down, and what the next one makes of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import StopFailed
from agent.parting import WHY, dependents_first
from state.history import Event
from state.ids import Name
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.runs import Run, RunPhase
from tests.builders import desired, job, vm
from tests.memory.test_jobs import FOR_EVER, NO_RETRIES, TESTS, phase
from tests.memory.world import Lab

NAMES = [Name(name) for name in "abcdef"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db", on_stop="shutdown")


@dataclass(frozen=True)
class Kept:
    """What is recorded once no agent runs."""

    phases: dict[Name, tuple[Phase, Cause]]
    events: list[Event]
    runs: list[Run]


def kept(lab: Lab) -> Kept:
    with closing(Ledger(lab.database)) as ledger:
        phases = {one.name: (one.phase, one.cause) for one in ledger.instances()}
        return Kept(phases, ledger.reader.events(), ledger.runs())


def taken_down(lab: Lab) -> list[Name | None]:
    """The names that were taken down with an agent, in that order."""
    return [one.name for one in kept(lab).events if one.message == WHY]


async def test_vms_go_down_with_their_agent_and_come_back_with_the_next_one(lab: Lab) -> None:
    """Sabotage: end them behind the ledger's back. The next agent then takes each for crashed."""
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        before = lab.uids()
    assert lab.uids() == {}
    assert set(kept(lab).phases.values()) == {(Phase.STOPPED, Cause.POWER)}
    async with lab.running():
        await lab.settled()
        assert lab.uids() == before, "from their own disks"
        assert lab.ledger is not None
        assert not lab.ledger.retries(), "which is nobody's fault"
    assert sorted(map(str, taken_down(lab))) == ["db", "db", "web", "web"]


async def test_vms_run_on_where_nobody_said_otherwise(lab: Lab) -> None:
    lab.on_stop = "leave"
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.uids()
    assert lab.uids() == before != {}


async def test_vms_run_on_where_who_tells_the_agent_to_leave_says_so(lab: Lab) -> None:
    """Sabotage: go by the policy alone."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.uids()
        assert lab.agent is not None
        lab.agent.stop(sparing=True)
    assert lab.uids() == before != {}


async def test_who_depends_on_another_goes_down_before_it(lab: Lab) -> None:
    """Sabotage: take them in the order of their names."""
    async with lab.running():
        lab.edit(desired(vm("api"), vm("web", depends_on=(Name("api"),))))
        await lab.settled()
    assert taken_down(lab) == ["web", "api"]


async def test_a_vm_that_is_stopped_already_is_left_so(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", power="stopped")))
        await lab.settled()
    assert taken_down(lab) == []


async def test_a_running_job_is_interrupted_first(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job(retries=NO_RETRIES), vm("web")))
        await phase(lab, RunPhase.RUNNING)
    assert lab.uids() == {}
    [run] = kept(lab).runs
    assert run.phase is RunPhase.INTERRUPTED


async def test_a_vm_that_does_not_end_is_told_and_holds_up_no_other(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        lab.host.failures["stop"] = [StopFailed("it does not end")]
    assert len(lab.uids()) == 1
    assert [one.reason for one in kept(lab).events].count("UpdateFailed") == 1


async def test_a_bug_of_ours_is_told_and_holds_up_no_other(lab: Lab) -> None:
    """Sabotage: let it end what is done for the others. They run on, or are cut off in the midst of it."""
    async with lab.running():
        lab.edit(desired(vm("api"), vm("web", depends_on=(Name("api"),)), vm("db")))
        await lab.settled()
        lab.host.delays["stop"] = 0.01
        lab.host.failures["stop"] = [ZeroDivisionError("a bug")]  # type: ignore[list-item]  # any error at all
    assert len(lab.uids()) == 1
    [told] = [one for one in kept(lab).events if one.reason == "Bug"]
    assert told.name in lab.uids()
    assert "met a bug of holdfast" in told.message


async def test_a_spec_that_cannot_be_read_is_ended_last_and_kept_as_it_is(lab: Lab) -> None:
    """Sabotage: read every spec before anything is done, or record another for it: the next agent replaces its VM."""
    unread = '{"of": "another version"}'
    async with lab.running():
        lab.edit(desired(vm("api"), vm("web", depends_on=(Name("api"),))))
        await lab.settled()
        assert lab.ledger is not None
        with lab.ledger.transaction() as change:
            change.put_instance(replace(lab.instance("web"), spec=unread))
    assert lab.uids() == {}
    assert taken_down(lab) == ["api", "web"]
    with closing(Ledger(lab.database)) as ledger:
        assert {one.name: one.phase for one in ledger.instances()} == {
            "api": Phase.STOPPED,
            "web": Phase.STOPPED,
        }
        assert unread in {one.spec for one in ledger.instances()}


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES))))
def test_every_name_is_in_one_group_and_after_its_dependents(
    needs: dict[Name, set[Name]],
) -> None:
    specs = {name: vm(name, depends_on=tuple(sorted(on - {name}))) for name, on in needs.items()}
    groups = list(dependents_first(specs))
    told = [name for group in groups for name in group]
    assert sorted(told) == sorted(specs)
    place = {name: at for at, group in enumerate(groups) for name in group}
    for at, group in enumerate(groups):
        waiting = {name for name, later in place.items() if later >= at}
        free = {
            one for one in waiting if not any(one in specs[other].depends_on for other in waiting)
        }
        assert group == (free or waiting), "those that nobody needs who is left, or a circle"
