"""Who waits for whom, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.leases import forwards_of
from agent.plan import plan
from agent.policy import Policy
from agent.steps import Create, Keep, Replace, Restart, Step, Wait
from state.desired import Desired
from state.ids import Name
from state.lifecycle import Cause, Phase
from state.observed import Instance, NameRecord, Observed, RunState, Seen, Verdict, View
from state.spec.resolved import HealthSpec, VmSpec
from tests.builders import (
    BASE,
    IMAGE,
    STATE_ID,
    broken,
    desired,
    job,
    moment,
    running,
    settled,
    vm,
    wanted_jobs,
)

WEB, DB = Name("web"), Name("db")
ON_DB = vm("web", depends_on=(DB,))
CHECKED = HealthSpec("tcp", 10.0, 2.0, 3, 120.0, port=5432)


def observed(*seen: Seen, **more: Any) -> Observed:
    names = {
        one.instance.name: NameRecord(one.instance.name, 1, one.instance.ssh_port) for one in seen
    }
    return Observed(instances=seen, names=names, images={IMAGE: BASE}, free_disk=0, **more)


def recorded(spec: VmSpec, **fields: Any) -> Instance:
    """A running instance; `web` has another port than `db`."""
    port = 22001 if spec.name == WEB else 22000
    return running(spec, **{"ssh_port": port, "forwards": forwards_of(spec, port), **fields})


def alive(spec: VmSpec | None = None, state: RunState = RunState.RUNNING, **fields: Any) -> Seen:
    return Seen(recorded(spec or vm("db"), **fields), Verdict.ALIVE, View(state), attached=True)


def ended(spec: VmSpec, **fields: Any) -> Seen:
    return Seen(recorded(spec, **fields), Verdict.GONE)


def decide(wish: Desired, *seen: Seen, **more: Any) -> dict[str, Step]:
    policy = Policy(STATE_ID, "tcg", disk_floor=0)  # the disk is full all the while
    steps = plan(wish, observed(*seen, **more), policy, moment(100.0)).steps
    return {step.name: step for step in steps}


def waits(step: Step) -> str:
    assert isinstance(step, Wait)
    assert (step.reason, step.fields) == ("DependsOn", ("depends_on",))
    return step.because


def test_a_vm_is_created_only_when_what_it_depends_on_is_ready() -> None:
    wish = desired(vm("db"), ON_DB)
    steps = decide(wish)
    assert isinstance(steps["db"], Create)
    assert waits(steps["web"]) == "db is not ready (no instance of it is there)"
    steps = decide(wish, alive(ready_at=None))
    assert waits(steps["web"]) == "db is not ready (it does not answer over SSH yet)"
    assert isinstance(decide(wish, alive())["web"], Create)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (
            alive(state=RunState.IO_ERROR),
            "the host could not write to its disk; it goes on when there is room",
        ),
        (alive(vm("db", power="paused"), RunState.PAUSED), "power is paused"),
        (
            alive()._replace(view=View(RunState.RUNNING, responsive=False, detail="silent")),
            "its monitor does not answer: silent",
        ),
        (alive()._replace(attached=False, view=View(None)), "it runs as pid 4242"),
        (ended(vm("db")), "its process ended: nobody saw how"),
    ],
)
def test_what_runs_without_serving_is_not_ready(seen: Seen, why: str) -> None:
    spec = vm("db", power="paused") if seen.view.state is RunState.PAUSED else vm("db")
    assert waits(decide(desired(spec, ON_DB), seen)["web"]) == f"db is not ready ({why})"


def test_one_that_is_about_to_be_replaced_is_not_ready() -> None:
    steps = decide(desired(vm("db", memory=1 << 30), ON_DB), alive())
    assert isinstance(steps["db"], Replace)
    assert waits(steps["web"]) == "db is not ready (memory 512MiB -> 1GiB)"


def test_one_whose_image_takes_no_key_is_ready_when_it_runs_unless_it_has_a_check() -> None:
    mute = replace(IMAGE, nocloud=False)
    for health, ready in ((None, True), (CHECKED, False)):
        spec = vm("db", image=mute, health=health)
        seen = alive(spec, ready_at=None, ssh_port=None, forwards=())
        step = decide(desired(spec, ON_DB), seen)["web"]
        assert isinstance(step, Wait) is not ready


def test_what_nobody_makes_is_waited_for_in_words() -> None:
    [step] = decide(desired(ON_DB)).values()
    assert waits(step) == "db is not ready (no document of this host names it)"
    wish = replace(desired(ON_DB), jobs=wanted_jobs(job("db")))
    assert waits(decide(wish)["web"]) == "db is not ready (it is a job)"


def test_one_whose_document_broke_still_counts_while_it_serves() -> None:
    wish = replace(desired(ON_DB), problems=(broken("db"),))
    assert isinstance(decide(wish, alive())["web"], Create)


def test_what_runs_goes_on_when_what_it_depends_on_is_gone() -> None:
    web = alive(ON_DB)
    dead = ended(vm("db"))
    steps = decide(desired(vm("db"), ON_DB), dead, web)
    assert isinstance(steps["db"], Restart)
    assert isinstance(steps["web"], Keep)


def test_a_restart_waits_and_a_replacement_leaves_the_old_one_serving() -> None:
    wish = desired(vm("db"), ON_DB)
    booting = alive(ready_at=None)
    assert "not ready" in waits(decide(wish, booting, ended(ON_DB))["web"])
    old = vm("web", memory=1 << 30, depends_on=(DB,))
    assert "not ready" in waits(decide(wish, booting, alive(old))["web"])
    # By its own, older document it depended on nothing.
    free = vm("web", memory=1 << 30)
    assert isinstance(decide(wish, booting, ended(free))["web"], Restart)


def rest(wish: Desired, *seen: Seen) -> bool | None:
    told = observed(*seen)
    return settled(
        wish, told, plan(wish, told, Policy(STATE_ID, "tcg", disk_floor=0), moment(100.0))
    )


def test_waiting_for_what_may_become_ready_is_under_way() -> None:
    chain = (vm("db"), ON_DB, vm("top", depends_on=(WEB,)))
    assert rest(desired(*chain), alive(ready_at=None)) is None


@pytest.mark.parametrize("spec", [vm("db", power="stopped"), vm("db", power="paused")])
def test_waiting_for_what_never_becomes_ready_has_failed(spec: Any) -> None:
    stopped = ended(spec, phase=Phase.STOPPED, cause=Cause.POWER, process=None)
    seen = stopped if spec.power == "stopped" else alive(spec, RunState.PAUSED)
    chain = (spec, ON_DB, vm("top", depends_on=(WEB,)))
    assert rest(desired(*chain), seen) is False


def test_waiting_for_a_stranger_has_failed() -> None:
    assert rest(desired(ON_DB)) is False
