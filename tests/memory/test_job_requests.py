"""What people ask of jobs: runs anew, and the end of runs, wherever they and the agent stand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import BadInput, Blocked
from agent.hypervisor.memory.work import Scripted
from agent.jobs.requests import BY_HAND, Requests
from agent.jobs.store import RunStore
from agent.paths import StatePaths
from state.ids import Digest, Name
from state.ledger import Ledger
from state.runs import Run, RunPhase
from state.spec.resolved_job import Attachment, JobFile
from tests.builders import STATE_ID, broken, desired, job, vm
from tests.memory.test_jobs import FOR_EVER, TESTS, last, nothing_left, phase, runs
from tests.memory.world import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


@contextmanager
def without_an_agent(lab: Lab) -> Iterator[Requests]:
    """What a command does that holds the state directory itself."""
    ledger = Ledger(lab.database)
    try:
        yield Requests(ledger, RunStore(StatePaths(lab.database.parent)), lab.clock, STATE_ID)
    finally:
        ledger.close()


def requests(lab: Lab) -> Requests:
    assert lab.agent is not None
    return lab.agent.requests


async def ended(lab: Lab, number: int) -> Run:
    """The run with this number, once it is the last one and has ended."""
    await lab.until(
        lambda: [(one.number, one.phase.ended) for one in runs(lab)][-1:] == [(number, True)],
        f"run {number} has ended",
    )
    return last(lab)


def result_of(lab: Lab, run: Run) -> dict[str, object]:
    text = (lab.database.parent / "runs" / run.id / "result.json").read_text()
    return dict(json.loads(text))


# Again


async def test_a_job_runs_again_as_often_as_it_is_asked_and_no_more(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job()))
        first = await ended(lab, 1)
        lab.host.scripts[TESTS] = Scripted(exit_code=3)
        asked = await requests(lab).rerun(TESTS)
        assert (asked.number, asked.phase, asked.spec) == (2, RunPhase.QUEUED, first.spec)
        assert asked.id != first.id
        again = await ended(lab, 2)
        assert (again.phase, again.exit_code) == (RunPhase.FAILED, 3)
        await lab.settled()
        assert runs(lab) == [first, again]
        await nothing_left(lab)


async def test_it_is_asked_where_no_agent_runs_and_done_by_the_next(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job()))
        await ended(lab, 1)
    with without_an_agent(lab) as alone:
        assert (await alone.rerun(TESTS)).number == 2
        with pytest.raises(Blocked, match="its run 2 is queued"):
            await alone.rerun(TESTS)
    async with lab.running():
        lab.look()
        assert (await ended(lab, 2)).phase is RunPhase.SUCCEEDED


async def test_what_runs_is_not_run_again_beside_itself(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        with pytest.raises(Blocked, match=r"its run 1 is running \(wait .* job cancel tests"):
            await requests(lab).rerun(TESTS)


async def test_a_run_that_has_just_ended_is_waited_out(lab: Lab) -> None:
    """Sabotage: give the number away while a step of the name goes on. Its VM is being taken away just then."""
    async with lab.running():
        lab.host.delays["stop"] = 0.2
        lab.edit(desired(job()))
        await phase(lab, RunPhase.SUCCEEDED)
        await requests(lab).rerun(TESTS)
        assert {one.machine.name for one in lab.host.guests.values()} == set()
        assert (await ended(lab, 2)).phase is RunPhase.SUCCEEDED


async def test_what_was_never_run_cannot_be_run_again(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        for asked in (requests(lab).rerun(Name("web")), requests(lab).rerun(TESTS)):
            with pytest.raises(BadInput, match=r"there is no run .*once its document is committed"):
                await asked


async def test_a_job_whose_document_is_gone_cannot_be_run_again(lab: Lab) -> None:
    """Sabotage: queue it. The next pass cancels it, which nobody understands."""
    async with lab.running():
        lab.edit(desired(job()))
        await ended(lab, 1)
        lab.edit(desired(vm("web")))
        await lab.settled()
        with pytest.raises(Blocked, match="no document names it any more"):
            await requests(lab).rerun(TESTS)


async def test_what_the_document_says_now_is_run_again_though_another_ran_last(lab: Lab) -> None:
    """Sabotage: take the last run. The next pass cancels it: its document says something else."""
    async with lab.running():
        for script in ("one", "two", "one"):
            lab.edit(desired(job(script=script)))
            await lab.settled()
        assert json.loads(last(lab).spec)["script"] == "two"
        await requests(lab).rerun(TESTS)
        again = await ended(lab, 3)
        assert again.phase is RunPhase.SUCCEEDED
        assert json.loads(again.spec)["script"] == "one"


async def test_a_job_with_a_broken_document_is_run_again_once_it_is_mended(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job()))
        await ended(lab, 1)
        lab.edit(desired(problems=[replace(broken("tests"), kind="job")]))
        await lab.settled()
        await requests(lab).rerun(TESTS)
        await lab.settled()
        assert last(lab).phase is RunPhase.QUEUED
        lab.edit(desired(job()))
        assert (await ended(lab, 2)).phase is RunPhase.SUCCEEDED


@pytest.mark.parametrize("kept", [True, False])
async def test_a_run_again_gets_the_files_of_the_first(lab: Lab, kept: bool) -> None:
    content = b"as it was\n"
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    lab.source.files["input"] = content
    files = (JobFile("/input", Attachment("input", digest, len(content))),)
    async with lab.running():
        lab.edit(desired(job(files=files)))
        first = await ended(lab, 1)
        lab.source.files["input"] = b"no longer so\n"
        store = RunStore(StatePaths(lab.database.parent))
        if not kept:
            store.of(first.id).input(digest).unlink()
            with pytest.raises(Blocked, match="a file of its run 1 cannot be copied: No such file"):
                await requests(lab).rerun(TESTS)
            assert runs(lab) == [first]
            return
        await requests(lab).rerun(TESTS)
        again = await ended(lab, 2)
        assert again.phase is RunPhase.SUCCEEDED
        assert store.of(again.id).input(digest).read_bytes() == content


async def test_a_vm_that_was_kept_for_a_look_makes_room_for_the_next_run(lab: Lab) -> None:
    """Sabotage: keep it. The next one wants the port that it listens on."""
    lab.host.scripts[TESTS] = Scripted(exit_code=1)
    async with lab.running():
        lab.edit(desired(job(keep_on_failure=3600.0)))
        first = await phase(lab, RunPhase.FAILED)
        await lab.settled()
        assert set(lab.host.guests) == {first.uid}
        await requests(lab).rerun(TESTS)
        again = await ended(lab, 2)
        await lab.settled()
        assert set(lab.host.guests) == {again.uid} != {first.uid}


# The end


async def test_a_running_run_is_cancelled(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job(keep_on_failure=3600.0)))
        await phase(lab, RunPhase.RUNNING)
        asked = await requests(lab).cancel(TESTS)
        assert (asked.phase, asked.cancel) == (RunPhase.RUNNING, BY_HAND)
        run = await ended(lab, 1)
        assert (run.phase, run.message) == (RunPhase.CANCELLED, BY_HAND)
        assert result_of(lab, run)["phase"] == "cancelled"
        await nothing_left(lab)
        await lab.settled()
        assert runs(lab) == [run], "what was cancelled is not begun again by itself"


async def test_a_run_that_stands_in_line_is_cancelled(lab: Lab) -> None:
    """Sabotage: look for cancelled runs among those under way alone."""
    for name in ("a", "b"):
        lab.host.scripts[Name(name)] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job("a"), job("b"), job()))
        await phase(lab, RunPhase.QUEUED)
        await phase(lab, RunPhase.RUNNING, "a")
        await phase(lab, RunPhase.RUNNING, "b")
        await requests(lab).cancel(TESTS)
        run = await phase(lab, RunPhase.CANCELLED)
        assert (run.attempt, run.message, result_of(lab, run)["phase"]) == (0, BY_HAND, "cancelled")
        assert last(lab, "a").phase is RunPhase.RUNNING


@pytest.mark.parametrize("during", ["prepare", "upload"])
async def test_a_wish_to_cancel_is_not_lost_while_an_attempt_comes_up(
    lab: Lab, during: str
) -> None:
    """The source answers no more, so that no pass tells the attempt. Sabotage: record the next phase of the run from
    what was read before the wait."""
    answered = threading.Event()
    lab.host.scripts[TESTS] = FOR_EVER
    lab.host.delays[during] = 0.2
    async with lab.running():
        lab.edit(desired(job()))
        await lab.until(lambda: lab.host.calls[during] > 0, "in the midst of it")
        try:
            lab.source.answers = lambda: answered.wait(10)
            lab.source.asked = False
            lab.look()
            await lab.until(lambda: lab.source.asked, "no pass goes on")
            await requests(lab).cancel(TESTS)
            run = await phase(lab, RunPhase.RUNNING)
            assert run.cancel == BY_HAND
        finally:
            answered.set()
        assert (await ended(lab, 1)).phase is RunPhase.CANCELLED


@pytest.mark.parametrize("at", [RunPhase.QUEUED, RunPhase.BOOTING, RunPhase.RUNNING])
async def test_what_is_cancelled_while_no_agent_runs_ends_with_the_next(
    lab: Lab, at: RunPhase
) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    if at is RunPhase.QUEUED:
        for name in ("a", "b"):
            lab.host.scripts[Name(name)] = FOR_EVER
    if at is RunPhase.BOOTING:
        lab.host.boot_delay = 3600
    others = (job("a"), job("b")) if at is RunPhase.QUEUED else ()
    async with lab.killed():
        lab.edit(desired(*others, job()))
        for other in others:
            await phase(lab, RunPhase.RUNNING, other.name)
        await phase(lab, at)
    with without_an_agent(lab) as alone:
        assert (await alone.cancel(TESTS)).phase is at
    async with lab.running():
        lab.look()
        run = await phase(lab, RunPhase.CANCELLED)
        assert run.message == BY_HAND
        assert result_of(lab, run)["message"] == BY_HAND
        await nothing_left(lab, *(one.name for one in others))


async def test_a_lost_ledger_loses_no_wish_to_cancel(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.killed():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
    with without_an_agent(lab) as alone:
        await alone.cancel(TESTS)
    lab.database.unlink()
    async with lab.running():
        lab.look()
        assert (await phase(lab, RunPhase.CANCELLED)).message == BY_HAND


async def test_where_nothing_is_under_way_nothing_is_cancelled(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job()))
        run = await ended(lab, 1)
        with pytest.raises(Blocked, match=r"run 1 has ended \(succeeded\)"):
            await requests(lab).cancel(TESTS)
        with pytest.raises(BadInput, match="there is no run of a job `other` here"):
            await requests(lab).cancel(Name("other"))
        assert runs(lab) == [run]


# An agent that is to leave


async def test_told_twice_to_leave_it_ends_running_jobs_at_once(lab: Lab) -> None:
    """Sabotage: take the second time for the first. Nobody has an hour then."""
    lab.host.scripts[TESTS] = FOR_EVER
    lab.drain_timeout = 3600.0
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        assert lab.agent is not None
        lab.agent.stop()
        lab.agent.stop()
        assert (await ended(lab, 1)).phase is RunPhase.INTERRUPTED
