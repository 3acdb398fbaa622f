"""When `run --once` may leave: never while something is under way, and well only if everything is."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.planned import Plan
from agent.steps import Adopt, Hold, Keep, Step, Wait
from state.desired import Desired, SourceInfo
from state.ids import Name, Uid
from state.observed import Observed, Retry, image_key, step_key, vm_key
from state.runs import RunPhase
from tests.builders import IMAGE, broken, desired, job, run, settled, vm

WEB, TESTS = Name("web"), Name("tests")


def keep(reason: str, name: str = "web") -> Step:
    return Keep(name=Name(name), because="x", reason=reason)


def wait(reason: str) -> Step:
    return Wait(name=WEB, because="x", reason=reason)


def judged(*steps: Step, wish: Desired | None = None, retries: Iterable[Retry] = ()) -> bool | None:
    observed = Observed(retries={retry.key: retry for retry in retries})
    return settled(wish or desired(vm()), observed, Plan(steps))


@pytest.mark.parametrize(
    "reason", ["Ready", "Running", "Stopped", "Paused", "Suspended", "GuestPoweredOff"]
)
def test_what_is_as_it_shall_be_is_well(reason: str) -> None:
    assert judged(keep(reason)) is True


@pytest.mark.parametrize(
    "step",
    [keep("Booting"), keep("Connecting"), wait("InProgress"), wait("FetchingImage"),
     Adopt(name=WEB, because="x", uid=Uid("1"))],
)  # fmt: skip
def test_what_is_under_way_is_waited_for_whatever_else_has_failed(step: Step) -> None:
    assert judged(step) is None
    assert judged(keep("Crashed", "db"), step) is None


@pytest.mark.parametrize(
    "step",
    [keep("Crashed"), keep("Panicked"), keep("BootTimeout"), keep("Unresponsive"), keep("IOError"),
     keep("Unknown"), keep("OtherState"), wait("PortTaken"), wait("NoFreePort"), wait("Unknown"),
     Hold(name=WEB, because="x", reason="Protected")],
)  # fmt: skip
def test_what_only_a_person_can_mend_has_failed(step: Step) -> None:
    assert judged(step) is False
    assert judged(step, keep("Ready", "db")) is False


@pytest.mark.parametrize("phase", [one for one in RunPhase if one.ended])
def test_a_job_is_well_only_if_its_run_has_succeeded(phase: RunPhase) -> None:
    """Sabotage: go by the reason. A guest that powers itself off is well for a vm, and cuts off a run."""
    step = Keep(kind="job", name=TESTS, because="x", reason="GuestPoweredOff")
    observed = Observed(
        runs=(run(job(script="an older one"), RunPhase.SUCCEEDED), run(job(), phase))
    )
    assert settled(desired(job()), observed, Plan((step,))) is (phase is RunPhase.SUCCEEDED)


def test_a_job_is_judged_by_what_its_document_says_now() -> None:
    """Sabotage: take the last run of the name, whatever it ran."""
    step = Keep(kind="job", name=TESTS, because="x", reason="Succeeded")
    failed = run(job(script="another"), RunPhase.FAILED)
    observed = Observed(runs=(run(job(), RunPhase.SUCCEEDED), failed))
    assert settled(desired(job()), observed, Plan((step,))) is True


def test_an_image_that_is_to_be_fetched_is_waited_for() -> None:
    assert settled(desired(vm()), Observed(), Plan((keep("Ready"),), (IMAGE,))) is None


@pytest.mark.parametrize("key", [vm_key(WEB), step_key(WEB, "create"), image_key(IMAGE)])
@pytest.mark.parametrize("reason", ["BackOff", "ImageUnavailable"])
def test_what_is_tried_again_has_failed_after_three_times(key: str, reason: str) -> None:
    assert judged(wait(reason), retries=[Retry(key, failures=2)]) is None
    assert judged(wait(reason), retries=[Retry(key, failures=3)]) is False


@pytest.mark.parametrize(("failures", "judgement"), [(2, None), (3, False)])
def test_a_step_of_a_job_that_fails_has_failed_after_three_times(
    failures: int, judgement: bool | None
) -> None:
    """Sabotage: take it for a run that is tried again. Those tries are counted; these go on for ever."""
    step = Wait(kind="job", name=TESTS, because="x", reason="BackOff")
    observed = Observed(retries={(key := step_key(TESTS, "run")): Retry(key, failures=failures)})
    assert settled(desired(job()), observed, Plan((step,))) is judgement


def test_a_run_that_is_tried_again_is_waited_for() -> None:
    step = Wait(kind="job", name=TESTS, because="x", reason="Retrying", until=1.0)
    assert settled(desired(job()), Observed(), Plan((step,))) is None


def test_a_held_name_that_waits_for_its_own_image_has_failed() -> None:
    """Sabotage: take the largest of no failures. The agent then ends with a bug."""
    assert judged(wait("ImageUnavailable"), wish=desired(problems=[broken("web")])) is False


def test_a_document_that_cannot_be_read_is_a_failure_though_every_machine_is_well() -> None:
    assert judged(keep("Ready"), wish=desired(vm(), problems=[broken(None)])) is False
    gone = Desired(SourceInfo("directory", "/desired", error="it is gone"))
    assert judged(wish=gone) is False


def test_nothing_wanted_and_nothing_there_is_well() -> None:
    assert judged(wish=desired()) is True
