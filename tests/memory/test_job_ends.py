"""How a run is found to have ended: by what the guest says, by a clock, or by what was put down before a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import GuestRefused, RetryLater
from agent.hypervisor.memory.work import Scripted
from agent.jobs import outcome, runner
from agent.jobs.outcome import Ending, Fault
from agent.jobs.progress import RecordedLog
from agent.jobs.store import RunStore
from agent.paths import StatePaths
from agent.status import status
from state.observed import BaseImage
from state.runs import Run, RunPhase
from state.spec.resolved import ImageSpec
from state.spec.resolved_job import JobSpec, Retries
from tests.builders import desired, job
from tests.memory.test_jobs import FOR_EVER, NO_RETRIES, TESTS, last, log_of, nothing_left, phase
from tests.memory.world import Lab

LASTING = Scripted(output=((0.0, b"hi\n"),), exit_code=0, last=0.5)
NO_FORK = "its shell does not do as it is told: sh: fork: Resource temporarily unavailable"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


def store(lab: Lab) -> RunStore:
    return RunStore(StatePaths(lab.database.parent))


def result(lab: Lab, run: Run) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(store(lab).of(run.id).result.read_text())
    return told


async def ended(lab: Lab) -> Run:
    await lab.until(lambda: last(lab).phase.ended, "it has ended")
    return last(lab)


async def passes(lab: Lab, seconds: float) -> None:
    """Let time pass while no agent runs."""
    end = lab.host.clock() + seconds
    await lab.until(lambda: lab.host.clock() > end, "time passes")


# The clocks


async def test_a_boot_longer_than_the_silence_that_is_allowed_is_no_silence(lab: Lab) -> None:
    """Sabotage: count the silence from the beginning of the attempt."""
    lab.host.boot_delay = 1.0
    lab.host.delays["begin"] = 0.4
    async with lab.running():
        lab.edit(desired(job(silence=0.6, boot=10.0)))
        await phase(lab, RunPhase.SUCCEEDED)


async def test_the_boot_is_over_with_the_login(lab: Lab) -> None:
    lab.host.delays["upload"] = 1.0
    async with lab.running():
        lab.edit(desired(job(boot=0.5, retries=NO_RETRIES)))
        await phase(lab, RunPhase.SUCCEEDED)


@pytest.mark.parametrize("clock", [{"silence": 0.7}, {"total": 1.5}])
async def test_no_clock_judges_a_script_that_has_ended(lab: Lab, clock: dict[str, Any]) -> None:
    """Its output is still on its way: 16 MiB of it."""
    lab.host.scripts[TESTS] = Scripted(output=((0.0, (b"y" * 1023 + b"\n") * 1024 * 16),))
    lab.host.delays["look"] = 0.04
    async with lab.running():
        lab.edit(desired(job(**clock)))
        run = await phase(lab, RunPhase.RUNNING)
        await ended(lab)
        assert last(lab).phase is RunPhase.SUCCEEDED
        assert log_of(lab, run).endswith("\n[holdfast] exit code 0\n")


@pytest.mark.parametrize("clock", [{"total": 1.0}, {"silence": 0.8}])
async def test_an_agent_that_was_away_for_long_asks_the_guest_first(
    lab: Lab, clock: dict[str, Any]
) -> None:
    """Sabotage: judge by the clocks as soon as an attempt is taken up again."""
    lab.host.scripts[TESTS] = LASTING
    async with lab.killed():
        lab.edit(desired(job(**clock)))
        await phase(lab, RunPhase.RUNNING)
    await passes(lab, 1.2)
    async with lab.running():
        assert (await ended(lab)).exit_code == 0


async def test_an_agent_that_was_away_for_long_ends_what_still_runs(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.killed():
        lab.edit(desired(job(total=1.0)))
        await phase(lab, RunPhase.RUNNING)
    await passes(lab, 1.0)
    async with lab.running():
        assert (await ended(lab)).reason == "TotalTimeout"
        await nothing_left(lab)


# What a guest refuses


@pytest.mark.parametrize("operation", ["look", "enter"])
async def test_a_guest_that_is_short_of_something_for_a_moment_loses_no_run(
    lab: Lab, operation: str
) -> None:
    lab.host.scripts[TESTS] = Scripted(output=((0.0, b"hi\n"),), exit_code=0, last=0.5)
    async with lab.running():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.RUNNING)
        assert run.uid is not None
        lab.host.failures[operation] = [GuestRefused(NO_FORK)]
        if operation == "enter":
            lab.host.cut(run.uid)
        assert (await ended(lab)).phase is RunPhase.SUCCEEDED


async def test_a_script_that_the_guest_does_not_begin_is_an_error_of_the_machinery(
    lab: Lab,
) -> None:
    lab.host.failures["begin"] = [GuestRefused("mkdir: no space")] * 3
    async with lab.running():
        lab.edit(desired(job()))
        await lab.until(lambda: bool(lab.ledger and lab.ledger.runs()), "there is one")
        run = await ended(lab)
        assert (run.phase, run.attempt, run.started_at) == (RunPhase.ERROR, 3, None)
        assert "the script begins" not in log_of(lab, run)


async def test_a_guest_that_has_forgotten_a_script_that_began_does_not_begin_it_again(
    lab: Lab,
) -> None:
    """Sabotage: take what the guest refuses for a failure before the script."""
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.killed():
        lab.edit(desired(job(retries=Retries(2, 0, 0))))
        run = await phase(lab, RunPhase.RUNNING)
        assert run.uid is not None
        await lab.until(lambda: lab.host.calls["look"] > 0, "it has begun")
    lab.host.guests[run.uid].works.clear()
    async with lab.running():
        run = await ended(lab)
        assert (run.phase, run.reason, run.attempt) == (RunPhase.INTERRUPTED, "ScriptLost", 1)


# What an attempt left


async def test_what_an_earlier_attempt_left_is_no_artifact_of_the_last(lab: Lab) -> None:
    lab.host.scripts[TESTS] = Scripted(exit_code=3, leaves={"/root/a.xml": b"one"})
    spec = job(artifacts=("/root/*.xml", "/none"), retries=Retries(0, 0, 1), silence=0.5)
    async with lab.running():
        lab.edit(desired(spec))
        await lab.until(lambda: bool(lab.ledger and lab.ledger.runs()), "there is one")
        await lab.until(lambda: last(lab).spent.script == 1, "it is tried again")
        lab.host.scripts[TESTS] = FOR_EVER
        run = await phase(lab, RunPhase.TIMEOUT)
        assert (run.artifacts, run.notes) == ((), ())
        assert not store(lab).of(run.id).artifacts.exists()


async def test_what_was_collected_in_vain_is_noted_once(lab: Lab) -> None:
    lab.host.scripts[TESTS] = Scripted(leaves={"/root/a": b"x"})
    lab.host.delays["collect"] = 3600
    async with lab.killed():
        lab.edit(desired(job(artifacts=("/root/a", "/none"))))
        await lab.until(lambda: lab.host.calls["collect"] > 0, "it collects")
    lab.host.delays.clear()
    async with lab.running():
        run = await ended(lab)
        assert [one.file for one in run.artifacts] == ["root/a"]
        assert run.notes == ("/none matches no file",)


# Killed between one file and the next


@pytest.mark.parametrize("retries", [NO_RETRIES, Retries(0, 1, 0)])
async def test_a_known_exit_code_outlives_the_vm_and_the_agent(lab: Lab, retries: Retries) -> None:
    """Sabotage: know it only once the artifacts are there. The script, which succeeded, would begin again."""
    lab.host.scripts[TESTS] = Scripted(leaves={"/root/a": b"x"})
    lab.host.delays["collect"] = 3600
    async with lab.killed():
        lab.edit(desired(job(artifacts=("/root/a",), retries=retries)))
        await lab.until(lambda: lab.host.calls["collect"] > 0, "it collects")
    lab.host.reboot()
    lab.host.delays.clear()
    begun = lab.host.calls["begin"]
    async with lab.running():
        run = await ended(lab)
        assert (run.phase, run.attempt, run.exit_code) == (RunPhase.SUCCEEDED, 1, 0)
        assert lab.host.calls["begin"] == begun
        await nothing_left(lab)


@pytest.mark.parametrize("how", ["rebooted", "goes on"])
@pytest.mark.parametrize("whole", [True, False])
async def test_what_the_files_say_of_an_end_is_the_end(lab: Lab, how: str, whole: bool) -> None:
    """The agent was killed after it had put down the end and before the ledger knew. Sabotage: believe the ledger."""
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.killed():
        lab.edit(desired(job(retries=Retries(1, 1, 1))))
        run = await phase(lab, RunPhase.RUNNING)
    ending = Ending("Silence", "no output for 5 s", fault=Fault.SILENT)
    over = outcome.after(run, JobSpec.from_canonical(run.spec), ending, lab.clock())
    store(lab).record(over)
    told = result(lab, run)
    if not whole:
        store(lab).of(run.id).result.unlink()
    if how == "rebooted":
        lab.host.reboot()
    async with lab.running():
        assert await ended(lab) == over
        assert result(lab, run) == told
        await nothing_left(lab)
        await lab.until(lambda: result(lab, run) == told, "its result stays")


async def test_a_pass_that_takes_its_time_sees_what_ended_meanwhile(lab: Lab) -> None:
    """Sabotage: look at the runs first, and do what was planned for one that has ended. It would be taken up again, and
    its result written anew."""
    lab.host.scripts[TESTS] = LASTING
    async with lab.running():
        lab.edit(desired(job(retries=NO_RETRIES)))
        run = await phase(lab, RunPhase.RUNNING)
        assert lab.agent is not None
        backend = lab.agent._backend
        backend_images = backend.images

        class Slow:
            """A store whose source is on a file system that takes its time."""

            async def look(self, images: Any) -> Mapping[ImageSpec, BaseImage]:
                found = await backend_images.look(images)
                if last(lab).phase is RunPhase.RUNNING:
                    await lab.until(lambda: last(lab).phase.ended, "it ends meanwhile")
                return found

            def __getattr__(self, name: str) -> Any:
                return getattr(backend_images, name)

        lab.agent._backend = replace(backend, images=Slow())
        lab.look()
        await ended(lab)
        await lab.settled()
        events = lab.ledger.reader.events(last=50) if lab.ledger else []
        assert [one for one in events if "Failed" in one.reason] == []
        assert last(lab).phase is RunPhase.SUCCEEDED
        assert result(lab, run)["phase"] == "succeeded"


async def test_an_agent_leaves_although_its_logs_have_no_room(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RetryLater("writing the log: no space left on device")

    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        monkeypatch.setattr(RecordedLog, "append", full)
        assert lab.agent is not None
        lab.agent.stop()
        lab.agent.stop()
        assert (await ended(lab)).phase is RunPhase.INTERRUPTED


# What is remembered


async def test_a_spec_that_ran_long_ago_is_not_run_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: forget a run with its log."""
    monkeypatch.setattr(runner, "RUNS_KEPT", 2)
    monkeypatch.setattr(runner, "SPECS_KEPT", 4)
    async with lab.running():
        for script in ("one", "two", "three", "two", "four", "five", "six"):
            lab.edit(desired(job(script=script)))
            await lab.settled()
        assert lab.ledger is not None
        kept = [run.number for run in lab.ledger.runs()]
        assert kept == [3, 4, 5, 6], "one and two have made room for the specs that came later"
        first, last_one = lab.ledger.runs()[0], lab.ledger.runs()[-1]
        assert not store(lab).of(first.id).log.exists()
        assert result(lab, first)["exit_code"] == 0
        assert store(lab).of(last_one.id).log.exists()
        lab.edit(desired(job(script="three")))
        await lab.settled()
        assert [run.number for run in lab.ledger.runs()] == kept


@pytest.mark.parametrize("begun", [False, True])
async def test_a_run_whose_document_said_something_else_for_a_while_is_run_if_it_never_began(
    lab: Lab, begun: bool
) -> None:
    """A script begins once for each spec, and not never."""
    lab.host.scripts[TESTS] = FOR_EVER
    if not begun:
        lab.host.boot_delay = 3600.0
    async with lab.running():
        lab.edit(desired(job(script="one")))
        await phase(lab, RunPhase.RUNNING if begun else RunPhase.BOOTING)
        lab.host.scripts[TESTS] = Scripted()
        lab.host.boot_delay = 0.0
        for script in ("two", "one"):
            lab.edit(desired(job(script=script)))
            await lab.settled()
        assert lab.ledger is not None
        phases = [run.phase for run in lab.ledger.runs()]
        again = [] if begun else [RunPhase.SUCCEEDED]
        assert phases == [RunPhase.CANCELLED, RunPhase.SUCCEEDED, *again]
        if begun:
            [step] = lab.passes[-1].plan.steps
            assert step.because.endswith("; `holdfast job rerun tests` runs it again")


async def test_a_document_that_went_back_is_told_with_the_run_of_what_it_says(lab: Lab) -> None:
    """Sabotage: speak of the latest run. `status` then tells a failure that `plan` and `run --once` know nothing of."""
    async with lab.running():
        for script, code in (("good", 0), ("bad", 9), ("good", 0)):
            lab.host.scripts[TESTS] = Scripted(exit_code=code)
            lab.edit(desired(job(script=script)))
            await lab.settled()
        assert lab.ledger is not None
        assert [one.exit_code for one in lab.ledger.runs()] == [0, 9]
        assert told(lab)["number"] == 1
        lab.edit(desired(job(script="bad")))
        await lab.settled()
        assert told(lab)["number"] == 2


async def test_a_job_that_has_ended_is_told_though_its_document_cannot_be_looked_for(
    lab: Lab,
) -> None:
    """Sabotage: forget it with the tree. Whoever watches `status` then loses its failure."""
    async with lab.running():
        lab.edit(desired(job()))
        await lab.settled()
        lab.edit(desired(unproven="the tree is missing"))
        await lab.settled()
        assert told(lab)["phase"] == "succeeded"
        lab.edit(desired())
        await lab.settled()
        assert items(lab) == []


async def test_a_qemu_that_stands_still_under_a_script_is_told(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.RUNNING)
        assert run.uid is not None
        lab.host.freeze(run.uid)
        await lab.until(lambda: told(lab)["reason"] == "Unresponsive", "it is told")
        assert told(lab)["phase"] == "running"
        lab.host.freeze(run.uid, frozen=False)
        await lab.until(lambda: told(lab)["reason"] == "Running", "it is over")


def items(lab: Lab) -> list[dict[str, Any]]:
    """What `status` tells."""
    assert lab.ledger is not None
    paths = StatePaths(lab.database.parent)
    found = status(lab.ledger.reader, paths, agent_pid=1, alive=lambda _: True)["items"]
    return list(found)


def told(lab: Lab) -> dict[str, Any]:
    """What `status` tells of the one job."""
    [found] = items(lab)
    return dict(found)
