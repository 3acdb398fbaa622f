"""What one pass decides about jobs, from what it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.plan import plan
from agent.policy import Policy
from agent.steps import Attempt, Destroy, Step, Wait
from state.clock import Moment
from state.ids import Name, RunId
from state.observed import Given, Observed, Seen, Verdict
from state.runs import RunPhase
from tests.builders import BASE, IMAGE, STATE_ID, broken, desired, job, moment, run, running, vm

GIB = 1 << 30
BUSY = Name("busy")


def answer(*, places: int = 2, accelerator: str = "kvm", **world: Any) -> Step:
    """What is decided of the job `tests`, which has a queued run, beside the job `busy`."""
    wish = desired(job(memory=GIB), job("busy", memory=GIB))
    runs = (run(job(memory=GIB)), *world.pop("runs", ()))
    observed = Observed(images={IMAGE: BASE}, busy={BUSY: "x"}, runs=runs, **world)
    policy = Policy(STATE_ID, accelerator, max_concurrency=places)
    [found] = [one for one in plan(wish, observed, policy, moment()).steps if one.name == "tests"]
    return found


def test_an_attempt_that_is_not_recorded_yet_has_its_place() -> None:
    """Sabotage: count the recorded ones."""
    given = {BUSY: Given(attempt=(RunId("1"), job("busy")))}
    assert answer(places=1, given=given).because == "capacity: 1 of 1 jobs"
    assert isinstance(answer(places=2, given=given), Attempt)


def test_an_attempt_is_counted_once() -> None:
    """Sabotage: add those that are recorded to those that were begun."""
    busy = run(job("busy"), RunPhase.BOOTING)
    given = {BUSY: Given(attempt=(busy.id, job("busy")))}
    assert isinstance(answer(places=2, given=given, runs=(busy,)), Attempt)


def test_memory_is_kept_for_an_attempt_that_has_no_process_yet() -> None:
    """Sabotage: take what the host says is free for what is left."""
    given = {BUSY: Given(attempt=(RunId("1"), job("busy", memory=GIB)))}
    told = answer(given=given, free_memory=GIB)
    assert told.because == "memory: the first in line needs 1GiB, none is free"
    assert isinstance(answer(given=given, free_memory=2 * GIB), Attempt)


def test_memory_is_kept_for_what_emulation_takes_beside_its_guest() -> None:
    """Sabotage: count the guest's memory alone."""
    assert isinstance(answer(free_memory=GIB), Attempt)
    told = answer(accelerator="tcg", free_memory=GIB)
    assert told.because == "memory: it needs 1152MiB, 1GiB are free where no job runs"
    assert isinstance(answer(accelerator="tcg", free_memory=GIB + (128 << 20)), Attempt)


def test_a_capacity_holds_for_every_word_that_means_the_image() -> None:
    """Sabotage: compare the words. A job that says another alias, or none, is then let past."""
    wish = replace(desired(job(runs_on="debian")), labels={"debian": "debian-12", "d": "debian-12"})
    observed = Observed(images={IMAGE: BASE}, runs=(run(job(runs_on="debian")),))
    policy = Policy(STATE_ID, "tcg", capacity={"d": 0})
    [step] = plan(wish, observed, policy, moment()).steps
    assert isinstance(step, Wait)
    assert (step.reason, step.because) == (
        "NoCapacity",
        "capacity: d 0 of 0, so that none may run here",
    )


def test_a_vm_is_kept_for_a_look_as_long_as_was_said_whatever_the_wall_clock_does() -> None:
    """Sabotage: compare Unix times."""
    kept = run(job(), RunPhase.FAILED, kept_until=1e9, boot_id="boot-1", not_before=100.0)
    assert kept.keeps_its_vm(Moment(2e9, 99.0, "boot-1"))
    assert not kept.keeps_its_vm(Moment(0.0, 101.0, "boot-1"))
    assert not kept.keeps_its_vm(Moment(0.0, 9.0, "boot-2"))
    assert not replace(kept, kept_until=None).keeps_its_vm(Moment(0.0, 99.0, "boot-1"))


def test_a_run_that_is_tried_again_says_so_in_a_word_of_its_own() -> None:
    """Sabotage: say the word of a step that failed, whose tries nobody counts."""
    wish = desired(job())
    again = run(job(), message="attempt 1: no memory", boot_id="boot-1", not_before=1001.0)
    observed = Observed(images={IMAGE: BASE}, runs=(again,))
    [step] = plan(wish, observed, Policy(STATE_ID, "tcg"), moment(1000.0)).steps
    assert isinstance(step, Wait)
    assert (step.reason, step.until) == ("Retrying", 1.0)
    assert step.because == "attempt 1: no memory; it is tried again"


def test_a_vm_is_looked_after_while_the_document_that_makes_it_a_job_cannot_be_read() -> None:
    """Sabotage: leave whatever a job's document names to the jobs. Nobody then starts the vm again."""
    wish = desired(problems=[replace(broken("web"), kind="job")])
    observed = Observed(instances=(Seen(running(), Verdict.GONE),), images={IMAGE: BASE})
    [step] = plan(wish, observed, Policy(STATE_ID, "tcg"), moment()).steps
    assert (step.action, step.kind) == ("restart", "vm")


@pytest.mark.parametrize("phase", [RunPhase.BOOTING, RunPhase.SUCCEEDED])
def test_what_is_left_of_a_run_goes_before_the_vm_of_its_name(phase: RunPhase) -> None:
    """One name has one step at a time. Sabotage: plan both ends at once."""
    old = running(vm("tests"), generation=2, kind="job")
    seen = (Seen(running(vm("tests")), Verdict.ALIVE), Seen(old, Verdict.ALIVE))
    observed = Observed(instances=seen, images={IMAGE: BASE}, runs=(run(job(), phase),))
    steps = plan(desired(job()), observed, Policy(STATE_ID, "tcg"), moment()).steps
    [acts] = [step for step in steps if step.acts]
    assert isinstance(acts, Destroy)
    assert (acts.kind, acts.uids) == ("job", (old.uid,))
