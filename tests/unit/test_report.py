"""Why each name is as it is: a finding for every answer, problem and piece of advice, dated from its first time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.planned import Plan
from agent.report import dated, findings
from agent.steps import Adopt, Hold, Keep, Power, Step, Wait
from state.desired import Advice, Desired, Problem, SourceInfo, SourceRef
from state.history import Finding
from state.ids import Name, Uid
from state.lifecycle import Cause
from tests.builders import DIRECTORY, broken, desired, vm

WEB = Name("web")
SOURCE = SourceRef("vms/web.yaml", 4)


@pytest.mark.parametrize(
    ("step", "scope", "reason"),
    [
        (Keep(name=WEB, because="said", reason="Ready", source=SOURCE), "kept", "Ready"),
        (Wait(name=WEB, because="said", reason="BackOff", source=SOURCE), "waiting", "BackOff"),
        (Hold(name=WEB, because="said", reason="Protected", source=SOURCE), "holding", "Protected"),
        (Adopt(name=WEB, because="said", uid=Uid("1"), source=SOURCE), "acting", "Adopt"),
        (
            Power(
                name=WEB, because="said", uid=Uid("1"), spec=vm(), to="paused",
                cause=Cause.POWER, grace=0.0, source=SOURCE,
            ),
            "acting",
            "Update",
        ),
    ],
)  # fmt: skip
def test_every_answer_is_a_finding_under_its_name(step: Step, scope: str, reason: str) -> None:
    assert findings(Plan((step,)), desired()) == {
        "vm/web": Finding(scope, reason, "said", "vm", WEB, "vms/web.yaml", 4)
    }


def test_a_name_without_a_document_has_no_place() -> None:
    step = Wait(name=WEB, because="said", reason="Unknown")
    found = findings(Plan((step,)), desired())["vm/web"]
    assert (found.file, found.line, found.column) == (None, None, None)


def test_a_held_name_points_to_what_is_wrong_in_its_document() -> None:
    step = Hold(name=WEB, because="web.yaml:3:1: it is broken", reason="InvalidDocument")
    found = findings(Plan((step,)), desired(problems=[broken("web")]))
    assert found["vm/web"] == Finding(
        "holding", "InvalidDocument", step.because, "vm", WEB, "web.yaml", 3, 1
    )
    [problem] = [one for key, one in found.items() if key.startswith("problem/")]
    assert problem == Finding(
        "held", "InvalidDocument", "it is broken", "vm", WEB, "web.yaml", 3, 1
    )


def test_of_several_problems_of_a_name_the_first_is_pointed_to_and_all_are_told() -> None:
    first = broken("web")
    second = replace(first, line=9, message="it is broken there too")
    step = Hold(name=WEB, because="x", reason="InvalidDocument")
    found = findings(Plan((step,)), desired(problems=[first, second]))
    assert found["vm/web"].line == 3
    assert len(found) == 3


def test_a_problem_that_may_be_anybodys_is_an_error() -> None:
    [found] = findings(Plan(()), desired(problems=[broken(None)])).values()
    assert (found.scope, found.name) == ("error", None)


def test_a_source_that_cannot_be_read_is_an_error_without_a_place() -> None:
    gone = Desired(SourceInfo("directory", "/desired", error="/desired is gone"))
    assert findings(Plan(()), gone) == {
        "source": Finding("error", "SourceUnreadable", "/desired is gone")
    }


def test_advice_is_told_with_its_place() -> None:
    advice = (Advice(SOURCE, "it is not pinned"), Advice(SOURCE, "it is old"))
    found = findings(Plan(()), Desired(DIRECTORY, advice=advice))
    assert sorted(one.message for one in found.values()) == ["it is not pinned", "it is old"]
    assert {(one.scope, one.file, one.line) for one in found.values()} == {
        ("advice", "vms/web.yaml", 4)
    }


def test_keys_are_the_same_from_pass_to_pass_and_differ_between_findings() -> None:
    wish = Desired(
        DIRECTORY,
        problems=(broken("web"), broken("db", "db.yaml"), Problem("x.yaml", 0, 0, "gone")),
        advice=(Advice(SOURCE, "it is not pinned"),),
    )
    found = findings(Plan(()), wish)
    assert len(found) == 4
    assert findings(Plan(()), wish).keys() == found.keys()


def test_what_is_found_of_a_name_again_is_the_finding_of_before() -> None:
    step = Keep(name=WEB, because="said", reason="Ready", source=SOURCE)
    before = dated(findings(Plan((step,)), desired()), {}, 100.0)
    assert findings(Plan((step,)), desired(), before)["vm/web"] is before["vm/web"]
    for other in (
        replace(step, because="other"),
        replace(step, reason="Running"),
        replace(step, source=replace(SOURCE, line=5)),
        replace(step, source=replace(SOURCE, file="other.yaml")),
        Wait(name=WEB, because="said", reason="Ready", source=SOURCE),
    ):
        assert findings(Plan((other,)), desired(), before) == findings(Plan((other,)), desired())


def test_a_finding_is_dated_from_when_it_first_said_the_same() -> None:
    said = Finding("waiting", "PortTaken", "nginx has it", file="a.yaml", line=1)
    old = dated({"vm/web": said}, {}, 100.0)
    assert old["vm/web"].since == 100.0
    moved = replace(said, file="b.yaml", line=9)
    assert dated({"vm/web": moved}, old, 200.0) == {"vm/web": replace(moved, since=100.0)}
    other = replace(said, message="apache has it")
    assert dated({"vm/web": other}, old, 200.0)["vm/web"].since == 200.0
    assert dated({}, old, 200.0) == {}
