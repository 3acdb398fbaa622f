"""What a pass leaves in the ledger: what differs from the last one, and nothing for an unchanged world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.planned import Plan
from agent.record import Pass, Recorder
from agent.steps import Adopt, Hold, Keep, Restart, Step, Wait
from state.desired import Advice, Desired, SourceInfo, SourceRef
from state.history import Event
from state.ids import Name, RunId, Uid
from state.ledger import Ledger
from state.lifecycle import Cause
from state.observed import Observed, Seen, Verdict
from state.records import APPROVED_KEY, GONE_BACK_KEY, SOURCE_KEY
from tests.builders import DIRECTORY, broken, desired, run, running, vm

WEB = Name("web")
MOVED = SourceRef("moved/web.yaml", 2)


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def ledger(tmp_path: Path, told: list[Event]) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db", on_event=told.append)) as opened:
        yield opened


def a_pass(*steps: Step, wish: Desired | None = None, seen: tuple[Seen, ...] = ()) -> Pass:
    return Pass("p-1", ("test",), wish or desired(vm()), Observed(instances=seen), Plan(steps))


def keep(reason: str = "Ready", because: str = "x", source: SourceRef | None = None) -> Keep:
    return Keep(name=WEB, because=because, reason=reason, source=source)


def wait(because: str = "nginx has it", reason: str = "PortTaken") -> Wait:
    return Wait(name=WEB, because=because, reason=reason)


def test_a_pass_leaves_its_findings_and_its_source(ledger: Ledger) -> None:
    Recorder(ledger).record(a_pass(wait()), 100.0)
    [(key, found)] = ledger.reader.findings().items()
    assert (key, found.reason, found.since) == ("vm/web", "PortTaken", 100.0)
    assert json.loads(ledger.reader.meta(SOURCE_KEY) or "") == {
        "kind": "directory", "location": "/desired", "commit": None, "error": None,
        "refused": None, "pending": False, "dirty": None,
    }  # fmt: skip


def test_an_unchanged_world_costs_no_write(ledger: Ledger) -> None:
    recorder, wish = Recorder(ledger), desired(problems=[broken(None)])
    recorder.record(a_pass(wait(), wish=wish), 100.0)
    before = ledger._connection.total_changes
    recorder.record(a_pass(wait(), wish=wish), 200.0)
    recorder.record(a_pass(wait(), wish=desired(problems=[broken(None)])), 300.0)
    assert ledger._connection.total_changes == before


def test_what_differs_from_the_last_pass_in_one_thing_alone_is_written(ledger: Ledger) -> None:
    """Sabotage: look no further than whether the documents are the same."""
    with ledger.transaction() as change:
        change.put_instance(running())
    recorder, wish = Recorder(ledger), desired(vm())
    first = a_pass(keep(source=MOVED), wish=wish)
    recorder.record(first, 100.0)

    boots = Plan((keep("Booting", "it boots", MOVED),))
    recorder.record(replace(first, plan=boots), 200.0)
    [finding] = ledger.reader.findings().values()
    assert (finding.reason, finding.since) == ("Booting", 200.0)

    seen = Observed(instances=(Seen(running(), Verdict.ALIVE),))
    recorder.record(replace(first, plan=boots, observed=seen), 300.0)
    assert ledger.instance(running().uid) == replace(running(), source=MOVED)

    approved = replace(seen, approved=frozenset({Uid("gone")}))
    recorder.record(replace(first, plan=boots, observed=approved), 400.0)
    assert ledger.reader.meta(APPROVED_KEY) == "[]"

    went_back = replace(keep(source=MOVED), kind="job", run=RunId("r-1"))
    recorder.record(a_pass(went_back, wish=wish), 500.0)
    assert ledger.reader.meta(GONE_BACK_KEY) == '{"web": "r-1"}'
    recorder.record(
        replace(
            a_pass(went_back, wish=wish), observed=Observed(runs=(run(id=RunId("r-1"), name=WEB),))
        ),
        600.0,
    )
    assert ledger.reader.meta(GONE_BACK_KEY) == "{}"


def test_a_new_agent_writes_nothing_that_the_last_one_wrote(
    ledger: Ledger, told: list[Event]
) -> None:
    Recorder(ledger).record(a_pass(wait()), 100.0)
    before = ledger._connection.total_changes
    Recorder(ledger).record(a_pass(wait()), 200.0)
    assert ledger._connection.total_changes == before
    assert len(told) == 1


def test_what_is_said_no_more_is_removed(ledger: Ledger) -> None:
    recorder = Recorder(ledger)
    recorder.record(a_pass(wait(), wish=desired(problems=[broken(None)])), 100.0)
    recorder.record(a_pass(), 200.0)
    assert ledger.reader.findings() == {}


def test_a_new_reason_is_told_once_and_again_when_it_says_something_else(
    ledger: Ledger, told: list[Event]
) -> None:
    recorder = Recorder(ledger)
    passes: list[Step] = [wait(), wait(), wait("apache has it"), keep(), wait()]
    for at, step in enumerate(passes):
        recorder.record(a_pass(step), float(at))
    assert [(one.at, one.reason, one.message) for one in told] == [
        (0.0, "PortTaken", "nginx has it"),
        (2.0, "PortTaken", "apache has it"),
        (4.0, "PortTaken", "nginx has it"),
    ]
    assert {(one.name, one.kind, one.pass_id) for one in told} == {(WEB, "vm", "p-1")}


def test_a_silent_machine_that_answers_again_is_told(ledger: Ledger, told: list[Event]) -> None:
    """Sabotage: tell of its silence alone."""
    recorder = Recorder(ledger)
    for at, step in enumerate([keep("Unresponsive"), keep("Connecting"), keep("Unresponsive")]):
        recorder.record(a_pass(step), float(at))
    for at, step in enumerate([keep("Running"), keep("Ready")], 3):
        recorder.record(a_pass(step), float(at))
    assert [(one.at, one.reason) for one in told] == [
        (0.0, "Unresponsive"),
        (2.0, "Unresponsive"),
        (3.0, "Responsive"),
    ]
    assert told[-1].message == "its monitor answers again"


@pytest.mark.parametrize(
    "step",
    [keep("Ready"), keep("Running"), keep("Booting"), keep("Connecting"), keep("Stopped"),
     keep("Paused"), wait(reason="InProgress"), Adopt(name=WEB, because="x", uid=Uid("1"))],
)  # fmt: skip
def test_what_steps_tell_of_themselves_is_not_told_twice(
    ledger: Ledger, told: list[Event], step: Step
) -> None:
    Recorder(ledger).record(a_pass(step), 100.0)
    assert told == []


def test_advice_is_kept_and_not_told_as_something_that_happened(
    ledger: Ledger, told: list[Event]
) -> None:
    wish = Desired(DIRECTORY, advice=(Advice(MOVED, "it is not pinned"),))
    Recorder(ledger).record(a_pass(wish=wish), 100.0)
    assert told == []
    assert len(ledger.reader.findings()) == 1


def test_a_problem_is_told_once_with_its_place(ledger: Ledger, told: list[Event]) -> None:
    """Sabotage: tell of the held name and of its problem. Two events then say the same."""
    hold = Hold(name=WEB, because="web.yaml:3:1: it is broken", reason="InvalidDocument")
    Recorder(ledger).record(a_pass(hold, wish=desired(problems=[broken("web")])), 100.0)
    assert [(one.name, one.message) for one in told] == [(WEB, "web.yaml:3:1: it is broken")]
    told.clear()
    gone = replace(broken(None), line=0, column=0)
    Recorder(ledger).record(a_pass(wish=desired(problems=[gone])), 200.0)
    assert [one.message for one in told if one.name is None] == ["web.yaml: it is broken"]


HOLD = Hold(name=WEB, because="web.yaml:3:1: it is broken", reason="InvalidDocument")
RESTART = Restart(
    name=WEB, because="its process ended", uid=Uid("1"), spec=vm(), accelerator="tcg",
    cause=Cause.EXIT, grace=0.0, fault=True,
)  # fmt: skip


@pytest.mark.parametrize("again", [True, False])
def test_the_end_of_a_hold_is_told_once_by_whichever_agent_sees_it(
    ledger: Ledger, told: list[Event], again: bool
) -> None:
    recorder = Recorder(ledger)
    recorder.record(a_pass(HOLD, wish=desired(problems=[broken("web")])), 100.0)
    told.clear()
    if again:
        recorder = Recorder(ledger)
    recorder.record(a_pass(keep()), 200.0)
    recorder.record(a_pass(keep()), 300.0)
    assert [(one.at, one.reason, one.name, one.kind, one.message) for one in told] == [
        (200.0, "Released", WEB, "vm", "it is no longer held; keep: x")
    ]


@pytest.mark.parametrize(
    "meanwhile", [RESTART, wait(reason="InProgress"), wait(reason="BackOff")], ids=repr
)
@pytest.mark.parametrize("wish", [desired(vm()), desired(unproven="the tree is gone")])
def test_a_hold_lasts_while_what_runs_is_looked_after(
    ledger: Ledger, told: list[Event], meanwhile: Step, wish: Desired
) -> None:
    """Sabotage: take every step that is no hold for its end. It ends and begins anew with each restart."""
    hold = replace(HOLD, reason="AbsenceUnproven")
    recorder = Recorder(ledger)
    recorder.record(a_pass(hold, wish=wish), 100.0)
    recorder.record(a_pass(meanwhile, wish=wish), 200.0)
    recorder.record(a_pass(hold, wish=wish), 300.0)
    assert "Released" not in [one.reason for one in told]
    recorder.record(a_pass(meanwhile, wish=wish), 400.0)
    recorder.record(a_pass(), 500.0)
    assert [(one.at, one.message) for one in told if one.reason == "Released"] == [
        (500.0, "it is no longer held; nothing of it is left")
    ]


def test_a_document_that_was_just_deleted_is_no_hold_to_tell_of(
    ledger: Ledger, told: list[Event]
) -> None:
    recorder = Recorder(ledger)
    gone = replace(broken("web"), reason="JustGone")
    recorder.record(a_pass(replace(HOLD, reason="JustGone"), wish=desired(problems=[gone])), 100.0)
    recorder.record(a_pass(), 101.0)
    assert told == []


def test_a_kept_machine_follows_its_document_to_where_it_stands_now(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        change.put_instance(running())
    recorder = Recorder(ledger)
    seen = Seen(running(), Verdict.ALIVE)
    recorder.record(a_pass(keep(source=MOVED), seen=(seen,)), 100.0)
    assert ledger.instance(running().uid) == replace(running(), source=MOVED)


def test_a_machine_that_something_is_done_to_is_not_written_beside_it(ledger: Ledger) -> None:
    """Sabotage: write the observed instance of every name. What a step under way has recorded is then undone."""
    with ledger.transaction() as change:
        change.put_instance(running())
    busy = Wait(name=WEB, because="update: labels", reason="InProgress", source=MOVED)
    Recorder(ledger).record(a_pass(busy, seen=(Seen(running(), Verdict.ALIVE),)), 100.0)
    assert ledger.instance(running().uid) == running()


def test_another_commit_of_the_source_is_written_though_nothing_else_changed(
    ledger: Ledger,
) -> None:
    recorder = Recorder(ledger)
    for commit in ("a" * 40, "b" * 40):
        source = SourceInfo("git", "https://example/x.git", commit)
        recorder.record(a_pass(wish=Desired(source)), 100.0)
        assert json.loads(ledger.reader.meta(SOURCE_KEY) or "")["commit"] == commit


def test_an_approval_ends_when_its_vm_is_wanted_again_or_gone(ledger: Ledger) -> None:
    """Sabotage: forget it with the VM alone. Months later the next deletion of that VM asks nobody."""

    def approved() -> list[str]:
        return list(json.loads(ledger.reader.meta(APPROVED_KEY) or "null"))

    web, db = (Seen(running(vm(name)), Verdict.ALIVE) for name in ("web", "db"))
    recorder = Recorder(ledger)
    recorder.record(a_pass(keep(), seen=(web, db)), 100.0)
    whole = frozenset({web.instance.uid, db.instance.uid, Uid("gone")})
    same = a_pass(keep(), seen=(web, db))
    recorder.record(replace(same, observed=replace(same.observed, approved=whole)), 200.0)
    assert approved() == [db.instance.uid], "though nothing else has changed"
    still = replace(same, observed=replace(same.observed, approved=frozenset({db.instance.uid})))
    before = ledger._connection.total_changes
    recorder.record(still, 300.0)
    assert ledger._connection.total_changes == before


def test_a_reason_whose_document_moved_is_written_and_not_told_again(
    ledger: Ledger, told: list[Event]
) -> None:
    recorder = Recorder(ledger)
    recorder.record(a_pass(wait()), 100.0)
    recorder.record(a_pass(replace(wait(), source=MOVED)), 200.0)
    assert ledger.reader.findings()["vm/web"].file == "moved/web.yaml"
    assert len(told) == 1


def test_how_far_an_image_is_is_told_once(ledger: Ledger, told: list[Event]) -> None:
    """Sabotage: tell whatever differs. A large image is then an event each second."""
    recorder = Recorder(ledger)
    for second in range(3):
        recorder.record(a_pass(wait(f"it is on its way: {second}%", "FetchingImage")), 100.0)
        [finding] = ledger.reader.findings().values()
        assert finding.message == f"it is on its way: {second}%"
    assert len(told) == 1
