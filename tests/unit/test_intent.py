"""A step's row: written before anything is done, ended with it, and never left open by a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import StartFailed
from agent.intent import Intent
from agent.steps import CancelRun, Destroy, Enqueue, Resume, Step, Update, target
from state.desired import SourceRef
from state.ids import Name, RunId, Uid
from state.ledger import Ledger
from state.observed import NameRecord, step_key
from tests.builders import instance, job, moment, running, vm

WEB, TESTS, RUN = Name("web"), Name("tests"), RunId("r1")
SOURCE = SourceRef("tests.yaml", 1)
STEP = Update(name=WEB, because="labels {} -> {a: b}", uid=running().uid, spec=vm())


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db")) as opened:
        yield opened


def intent(ledger: Ledger) -> Intent:
    return Intent(ledger, STEP, "p-1", moment)


def test_the_intent_is_there_with_what_belongs_to_it_before_anything_is_done(
    ledger: Ledger,
) -> None:
    with intent(ledger).begin() as change:
        change.put_name(NameRecord(WEB, 1, 22000))
    [step] = ledger.reader.steps(open_only=True)
    assert (step.action, step.name, step.uid) == ("update", WEB, running().uid)
    assert (step.pass_id, step.because, step.begun_at) == ("p-1", STEP.because, moment().wall)
    assert WEB in ledger.names()


def test_the_outcome_ends_the_step_tells_of_it_and_forgets_its_failures(ledger: Ledger) -> None:
    failing = intent(ledger)
    failing.write()
    failing.failed(StartFailed("no"))
    trying = intent(ledger)
    trying.write()
    with trying.done("Updated", "it is as wanted") as change:
        change.put_name(NameRecord(WEB, 1, 22000))
    assert [one.outcome for one in ledger.reader.steps()] == ["failed", "done"]
    assert ledger.retries() == {}
    [_, told] = ledger.reader.events()
    assert (told.reason, told.message, told.name) == ("Updated", "it is as wanted", WEB)
    assert (told.uid, told.kind, told.pass_id) == (running().uid, "vm", "p-1")


def test_an_outcome_without_an_intent_has_both(ledger: Ledger) -> None:
    with intent(ledger).done("Adopted", "x"):
        pass
    [step] = ledger.reader.steps()
    assert (step.outcome, step.ended_at) == ("done", moment().wall)


def test_a_failure_ends_the_step_and_says_when_the_same_may_be_tried_again(ledger: Ledger) -> None:
    for expected in (1, 2):
        trying = intent(ledger)
        trying.write()
        trying.failed(StartFailed("starting it: no memory", hint="give it less"))
        retry = ledger.retry(step_key(WEB, STEP.action))
        assert (retry.failures, retry.what) == (expected, target(STEP))
        assert retry.error == "starting it: no memory (give it less)"
    assert ledger.reader.steps(open_only=True) == []
    assert [one.reason for one in ledger.reader.events()] == ["UpdateFailed", "UpdateFailed"]


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (Enqueue(name=TESTS, because="x", source=SOURCE, run=RUN, number=1, spec=job()), "Queue"),
        (Resume(name=TESTS, because="x", run=RUN), "Resume"),
        (CancelRun(name=TESTS, because="x", run=RUN), "Cancel"),
    ],
)
def test_a_step_of_a_job_that_failed_is_told_from_a_script_that_did(
    ledger: Ledger, step: Step, word: str
) -> None:
    """Sabotage: take the word for the action. `RunFailed` is then said of both."""
    Intent(ledger, step, "p-1", moment).failed(StartFailed("no"))
    assert [one.reason for one in ledger.reader.events()] == [f"{word}Failed"]


def test_a_failure_before_the_intent_leaves_a_step_all_the_same(ledger: Ledger) -> None:
    intent(ledger).failed(StartFailed("no"))
    [step] = ledger.reader.steps()
    assert (step.outcome, step.error) == ("failed", "no")


def test_an_intent_that_was_taken_back_still_leaves_a_step_when_it_fails(ledger: Ledger) -> None:
    """Sabotage: remember the id of the row before it is durable. The failure is then recorded of no step at all."""

    def taken_back(trying: Intent) -> None:
        with trying.begin() as change:
            change.put_instance(instance())
            raise ZeroDivisionError

    trying = intent(ledger)
    with pytest.raises(ZeroDivisionError):
        taken_back(trying)
    trying.failed(StartFailed("no"))
    [step] = ledger.reader.steps()
    assert step.outcome == "failed"
    assert ledger.instances() == []


def test_an_outcome_that_cannot_be_recorded_leaves_the_step_open(ledger: Ledger) -> None:
    def cut_off(trying: Intent) -> None:
        with trying.done("Updated", "x"):
            raise ZeroDivisionError

    trying = intent(ledger)
    trying.write()
    with pytest.raises(ZeroDivisionError):
        cut_off(trying)
    [step] = ledger.reader.steps(open_only=True)
    assert step.outcome is None
    assert ledger.reader.events() == []


def test_the_last_of_what_is_destroyed_stands_for_all(ledger: Ledger) -> None:
    for uids, told in (((Uid("1"), Uid("2")), "2"), ((), None)):
        step = Destroy(name=WEB, because="x", uids=uids, grace=0.0)
        Intent(ledger, step, "p-1", moment).write()
        assert ledger.reader.steps()[-1].uid == told
