"""What the clocks of an attempt say of what they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.jobs.clocks import CLOSING, TAKEN_UP, Clocks
from agent.jobs.outcome import Fault
from state.desired import SourceRef
from state.ids import RunId
from state.runs import Run, RunPhase
from tests.builders import job

SPEC = job(boot=60.0, silence=30.0, total=600.0)
BOOTING = Run(
    id=RunId("11111111-1111-4111-8111-111111111111"),
    name=SPEC.name,
    number=1,
    spec=SPEC.canonical(),
    spec_digest=SPEC.digest,
    source=SourceRef("tests.yaml", 1),
    phase=RunPhase.BOOTING,
    queued_at=0.0,
    attempt=1,
    attempt_began=1000.0,
)
RUNNING = replace(BOOTING, phase=RunPhase.RUNNING)


def said(clocks: Clocks, run: Run, now: float) -> tuple[str, Fault | None] | None:
    ending = clocks.over(run, now)
    return (ending.reason, ending.fault) if ending else None


def test_the_boot_is_judged_until_somebody_is_let_in() -> None:
    clocks = Clocks(SPEC, 1000.0, resumed=False)
    assert said(clocks, BOOTING, 1060.0) is None
    assert said(clocks, BOOTING, 1060.1) == ("BootTimeout", Fault.MACHINERY)
    clocks.let_in()
    assert said(clocks, BOOTING, 1060.1) is None
    assert said(clocks, BOOTING, 1600.1) == ("TotalTimeout", Fault.OVERDUE)


def test_silence_begins_with_the_script_and_anew_with_each_word() -> None:
    clocks = Clocks(SPEC, 1000.0, resumed=False)
    clocks.heard(1100.0)
    clocks.heard(1120.0)
    clocks.seen(1150.0)
    assert said(clocks, RUNNING, 1150.0) is None
    assert said(clocks, RUNNING, 1150.1) == ("Silence", Fault.SILENT)


@pytest.mark.parametrize(("looked", "reason"), [(1116.0, "Silence"), (1114.0, "Unreachable")])
def test_a_script_that_nobody_could_hear_was_not_silent(looked: float, reason: str) -> None:
    """Sabotage: call it silence. It would never be tried again."""
    clocks = Clocks(SPEC, 1000.0, resumed=False)
    clocks.heard(1100.0)
    clocks.seen(looked)
    fault = Fault.SILENT if reason == "Silence" else Fault.CUT_OFF
    assert said(clocks, RUNNING, 1130.5) == (reason, fault)


def test_what_is_taken_up_is_judged_once_it_was_seen_or_after_a_while() -> None:
    clocks = Clocks(SPEC, 5000.0, resumed=True)
    assert said(clocks, RUNNING, 5000.0 + TAKEN_UP - 0.1) is None
    assert said(clocks, RUNNING, 5000.0 + TAKEN_UP) == ("TotalTimeout", Fault.OVERDUE)
    clocks = Clocks(SPEC, 5000.0, resumed=True)
    clocks.seen(5001.0)
    assert said(clocks, RUNNING, 5001.0) == ("TotalTimeout", Fault.OVERDUE)


def test_no_clock_judges_what_has_its_exit_code_but_the_one_for_the_rest() -> None:
    clocks = Clocks(SPEC, 1000.0, resumed=False)
    ended = replace(RUNNING, exit_code=0)
    clocks.ended(9000.0)
    assert said(clocks, ended, 9000.0 + CLOSING) is None
    assert said(clocks, ended, 9000.1 + CLOSING) == ("Closing", None)
