"""Jobs on a host in memory: one honest result for each run, whatever happens to the agent, the host or the guest."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import GuestRefused, StartFailed
from agent.hypervisor.memory.work import Scripted
from agent.paths import StatePaths
from agent.policy import SSH_PORTS
from agent.steps import Wait
from state.ids import Digest, Name
from state.observed import Listener, RunState
from state.runs import Run, RunPhase
from state.spec.resolved_job import Attachment, Retries
from tests.builders import broken, desired, job, settled, vm
from tests.memory.world import DEADLINE, Lab

TESTS = Name("tests")
FOR_EVER = Scripted(output=((0.0, b"on and on\n"),), exit_code=None)
NO_RETRIES = Retries(0, 0, 0)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


def runs(lab: Lab, name: str = "tests") -> list[Run]:
    assert lab.ledger is not None
    return [run for run in lab.ledger.runs() if run.name == name]


def last(lab: Lab, name: str = "tests") -> Run:
    return runs(lab, name)[-1]


async def phase(lab: Lab, wanted: RunPhase, name: str = "tests") -> Run:
    await lab.until(
        lambda: bool(runs(lab, name)) and last(lab, name).phase is wanted, f"it is {wanted}"
    )
    return last(lab, name)


def log_of(lab: Lab, run: Run) -> str:
    return (lab.database.parent / "runs" / run.id / "log").read_text()


def judged(lab: Lab) -> bool | None:
    """What `run --once` makes of the last pass."""
    latest = lab.passes[-1]
    return settled(latest.desired, latest.observed, latest.plan)


async def nothing_left(lab: Lab, *but: str) -> None:
    """No process, no files of a VM, no leased port of a job."""
    ledger = lab.ledger
    assert ledger is not None
    await lab.until(
        lambda: {one.machine.name for one in lab.host.guests.values()} == set(but),
        "no VM of a job is left",
    )
    await lab.until(
        lambda: {name for name, one in ledger.names().items() if one.ssh_port} == set(but),
        "no port of a job is leased",
    )


async def test_a_job_runs_once_in_a_fresh_vm_and_its_result_is_kept(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job(), vm("web")))
        run = await phase(lab, RunPhase.SUCCEEDED)
        assert (run.exit_code, run.attempt, run.number, run.reason) == (0, 1, 1, "Succeeded")
        assert "script ran in memory" in log_of(lab, run)
        told = json.loads((lab.database.parent / "runs" / run.id / "result.json").read_text())
        assert (told["phase"], told["exit_code"]) == ("succeeded", 0)
        await nothing_left(lab, "web")
        await lab.settled()
        assert runs(lab) == [run], "a finished job never runs again by itself"
    async with lab.running():
        await lab.settled()
        assert runs(lab) == [run]


async def test_an_edited_document_is_a_new_run_and_the_old_spec_is_never_run_again(
    lab: Lab,
) -> None:
    async with lab.running():
        for script in ("one", "two", "one"):
            lab.edit(desired(job(script=script)))
            await lab.settled()
        assert [(run.number, run.phase) for run in runs(lab)] == [
            (1, RunPhase.SUCCEEDED),
            (2, RunPhase.SUCCEEDED),
        ]


@pytest.mark.parametrize(("allowed", "attempts"), [(0, 1), (2, 3)])
async def test_a_script_that_fails_has_failed_as_often_as_it_may(
    lab: Lab, allowed: int, attempts: int
) -> None:
    lab.host.scripts[TESTS] = Scripted(exit_code=7)
    async with lab.running():
        lab.edit(desired(job(retries=Retries(0, 0, allowed))))
        run = await phase(lab, RunPhase.FAILED)
        assert (run.exit_code, run.attempt, run.spent.script) == (7, attempts, allowed)
        await nothing_left(lab)


async def test_what_fails_before_the_script_is_the_machinerys_and_tried_in_a_fresh_vm(
    lab: Lab,
) -> None:
    lab.host.failures["spawn"] = [StartFailed("no memory")]
    lab.host.failures["upload"] = [GuestRefused("no space")]
    async with lab.running():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.SUCCEEDED)
        assert (run.attempt, run.spent.infrastructure) == (3, 2)
        await nothing_left(lab)


async def test_what_fails_too_often_before_the_script_is_an_error(lab: Lab) -> None:
    lab.host.failures["spawn"] = [StartFailed("no memory")] * 3
    async with lab.running():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.ERROR)
        assert (run.attempt, run.exit_code, run.message) == (3, None, "no memory")
        await nothing_left(lab)


@pytest.mark.parametrize(
    ("clock", "wanted", "reason"),
    [
        ({"total": 0.5}, RunPhase.TIMEOUT, "TotalTimeout"),
        ({"silence": 0.5}, RunPhase.TIMEOUT, "Silence"),
    ],
)
async def test_a_script_that_never_ends_is_ended_by_its_clock(
    lab: Lab, clock: dict[str, Any], wanted: RunPhase, reason: str
) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job(**clock)))
        run = await phase(lab, wanted)
        assert (run.reason, run.exit_code) == (reason, None)
        await nothing_left(lab)


async def test_a_guest_that_never_boots_is_an_error_of_the_boot(lab: Lab) -> None:
    lab.host.boot_delay = 3600
    async with lab.running():
        lab.edit(desired(job(boot=0.3, retries=NO_RETRIES)))
        run = await phase(lab, RunPhase.ERROR)
        assert run.reason == "BootTimeout"
        await nothing_left(lab)


@pytest.mark.parametrize("how", ["killed", "powered off", "panicked"])
async def test_a_vm_that_is_lost_while_the_script_runs_interrupts_the_run(
    lab: Lab, how: str
) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.RUNNING)
        assert run.uid is not None
        match how:
            case "killed":
                lab.host.kill(run.uid)
            case "powered off":
                lab.host.guest(run.uid, RunState.OFF)
            case _:
                lab.host.guest(run.uid, RunState.PANICKED)
        run = await phase(lab, RunPhase.INTERRUPTED)
        assert run.exit_code is None
        await nothing_left(lab)
        await lab.until(lambda: judged(lab) is not None, "everything has come to rest")
        assert judged(lab) is False, "nothing went well"


async def test_a_run_that_was_cut_off_starts_again_where_its_document_allows_it(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job(retries=Retries(0, 1, 0))))
        run = await phase(lab, RunPhase.RUNNING)
        assert run.uid is not None
        lab.host.scripts[TESTS] = Scripted()
        lab.host.kill(run.uid)
        run = await phase(lab, RunPhase.SUCCEEDED)
        assert (run.attempt, run.spent.interrupted) == (2, 1)


@pytest.mark.parametrize(
    "operation", ["spawn", "resume", "enter", "upload", "begin", "look", "collect", "stop"]
)
async def test_a_run_whose_agent_died_anywhere_has_one_result(lab: Lab, operation: str) -> None:
    """That an agent died is no failure of the attempt. Sabotage: begin the script anew in the next agent."""
    output = ((0.0, b"one\n"), (0.1, b"two\n"))
    lab.host.scripts[TESTS] = Scripted(output, exit_code=3, leaves={"/root/a.xml": b"left"})
    lab.host.delays[operation] = 3600
    async with lab.killed():
        lab.edit(desired(job(retries=NO_RETRIES, artifacts=("/root/*.xml",))))
        await lab.until(lambda: lab.host.calls[operation] > 0, "in the midst of it")
    lab.host.delays.clear()
    async with lab.running():
        lab.look()
        run = await phase(lab, RunPhase.FAILED)
        assert (run.exit_code, len(runs(lab))) == (3, 1)
        assert [line for line in log_of(lab, run).split("\n") if not line.startswith("[h")] == [
            "one",
            "two",
            "",
        ]
        assert [one.path for one in run.artifacts] == ["/root/a.xml"]
        await nothing_left(lab)


@pytest.mark.parametrize("how", ["goes on", "is cancelled", "ends with a new agent"])
async def test_a_run_whose_directory_somebody_removed_has_its_result(lab: Lab, how: str) -> None:
    """Sabotage: write into the directory as if it were there."""
    lab.host.scripts[TESTS] = Scripted(output=((0.0, b"one\n"), (0.5, b"two\n")))
    if how == "is cancelled":
        lab.host.scripts[TESTS] = FOR_EVER

    async def removed() -> None:
        lab.edit(desired(job(retries=NO_RETRIES)))
        run = await phase(lab, RunPhase.RUNNING)
        await lab.until(lambda: "on" in log_of(lab, run), "it has said something")
        shutil.rmtree(lab.database.parent / "runs" / run.id)

    if how == "ends with a new agent":
        async with lab.killed():
            await removed()
    async with lab.running():
        if how != "ends with a new agent":
            await removed()
        if how == "is cancelled":
            assert lab.agent is not None
            await lab.agent.requests.cancel(TESTS)
        lab.look()
        await lab.until(lambda: last(lab).phase.ended, "it has ended")
        run = last(lab)
        cancelled = how == "is cancelled"
        assert run.phase is (RunPhase.CANCELLED if cancelled else RunPhase.SUCCEEDED)
        told = json.loads((lab.database.parent / "runs" / run.id / "result.json").read_text())
        assert told["phase"] == run.phase
        assert "this log was removed" in log_of(lab, run)
        assert cancelled or "\ntwo\n" in log_of(lab, run)


async def test_a_console_that_was_cut_is_in_the_log_from_its_new_beginning(lab: Lab) -> None:
    """Sabotage: read on from where it was. Nothing comes, and later something out of the midst."""
    lab.host.boot_delay = 3600
    paths = StatePaths(lab.database.parent)
    async with lab.killed():
        lab.edit(desired(job()))
        run = await phase(lab, RunPhase.BOOTING)
        assert run.uid is not None
        console = paths.instance(run.uid).console_log
        console.parent.mkdir(parents=True, exist_ok=True)
        console.write_bytes(b"first\n" * 100)
        await lab.until(lambda: "first\n" in log_of(lab, run), "it is in the log")
        console.write_bytes(b"second\n")
        await lab.until(lambda: "second\n" in log_of(lab, run), "the new one too")
        assert "first\n[holdfast] the console's log was cut here\nsecond\n" in log_of(lab, run)


async def test_a_host_that_reboots_interrupts_what_ran(lab: Lab) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.killed():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
    lab.host.reboot()
    async with lab.running():
        lab.look()
        await phase(lab, RunPhase.INTERRUPTED)
        await nothing_left(lab)


@pytest.mark.parametrize("how", ["deleted", "edited"])
async def test_a_run_that_nobody_wants_any_more_is_cancelled(lab: Lab, how: str) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        lab.host.scripts[TESTS] = Scripted()
        lab.edit(desired(job(script="other")) if how == "edited" else desired(vm("web")))
        await lab.until(lambda: runs(lab)[0].phase is RunPhase.CANCELLED, "it is cancelled")
        await lab.settled()
        assert len(runs(lab)) == (2 if how == "edited" else 1)
        await nothing_left(lab, *(["web"] if how == "deleted" else []))


@pytest.mark.parametrize("how", ["deleted", "edited", "by hand"])
async def test_a_run_that_was_cancelled_before_it_began_is_run_once_its_document_is_back(
    lab: Lab, how: str
) -> None:
    """Not where somebody has cancelled it. Sabotage: take what has ended for what was run."""
    busy = (job("busy1"), job("busy2"))
    lab.host.scripts.update({one.name: FOR_EVER for one in busy})
    async with lab.running():
        lab.edit(desired(*busy))
        for one in busy:
            await phase(lab, RunPhase.RUNNING, one.name)
        lab.edit(desired(*busy, job()))
        await phase(lab, RunPhase.QUEUED)
        if how == "by hand":
            assert lab.agent is not None
            await lab.agent.requests.cancel(TESTS)
        else:
            lab.edit(desired(*busy, *([job(script="other")] if how == "edited" else [])))
        await lab.until(lambda: runs(lab)[0].phase is RunPhase.CANCELLED, "it is cancelled")
        lab.edit(desired(job()))
        await lab.until(lambda: last(lab).phase.ended, "it has ended")
        await lab.settled()
        ended = RunPhase.CANCELLED if how == "by hand" else RunPhase.SUCCEEDED
        assert last(lab).phase is ended
        assert len([run for run in runs(lab) if run.spec_digest == job().digest]) == (
            1 if how == "by hand" else 2
        )


async def test_a_broken_document_leaves_its_run_alone(lab: Lab) -> None:
    lab.host.scripts[TESTS] = Scripted(output=((0.3, b"done\n"),))
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        lab.edit(desired(problems=[replace(broken("tests"), kind="job")]))
        await phase(lab, RunPhase.SUCCEEDED)


async def test_no_more_run_at_once_than_there_are_places(lab: Lab) -> None:
    for number in range(6):
        lab.host.scripts[Name(f"j{number}")] = Scripted(output=((0.1, b"done\n"),))
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, len(lab.host.running()))
        return len(lab.ledger.runs()) == 6 and all(  # type: ignore[union-attr]
            run.phase is RunPhase.SUCCEEDED
            for run in lab.ledger.runs()  # type: ignore[union-attr]
        )

    async with lab.running():
        lab.edit(desired(*(job(f"j{number}") for number in range(6))))
        await lab.until(count, "all have succeeded")
        await nothing_left(lab)
    assert most == 2


async def test_attempts_that_are_not_recorded_yet_have_their_places_ports_and_users(
    lab: Lab,
) -> None:
    """Sabotage: go by what is recorded alone. What an attempt needs may take long to come, and meanwhile others
    begin."""
    content, come, asked = b"#!/bin/sh\n", threading.Event(), []
    lab.source.files["script"] = content
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    slow = [job(name, script=Attachment("script", digest, len(content))) for name in ("a", "b")]

    def hand_over() -> None:
        asked.append(1)
        come.wait(DEADLINE)

    def apart() -> bool:
        there = lab.ledger.instances()  # type: ignore[union-attr]
        assert len({one.ssh_port for one in there}) == len({one.run_as for one in there})
        assert len({one.ssh_port for one in there}) == len(there)
        return True

    async with lab.running():
        lab.edit(desired(job("first")))
        await phase(lab, RunPhase.SUCCEEDED, "first")
        await nothing_left(lab)
        lab.source.hands_over = hand_over
        try:
            lab.edit(desired(*slow))
            await lab.until(lambda: len(asked) == 2, "both wait for their files")
            lab.edit(desired(*slow, job("c"), vm("web")))
            await lab.until(lambda: Name("web") in lab.uids(), "a vm comes up beside them")
            await lab.until(lambda: bool(runs(lab, "c")), "the third is queued")
            lab.passes.clear()
            lab.look()
            await lab.until(lambda: bool(lab.passes), "it has been looked at again")
            assert last(lab, "c").phase is RunPhase.QUEUED
        finally:
            come.set()
        for name in ("a", "b", "c"):
            await lab.until(
                lambda name=name: (
                    apart() and [one.phase for one in runs(lab, name)] == [RunPhase.SUCCEEDED]
                ),  # type: ignore[misc]
                f"{name} has succeeded",
            )
            assert last(lab, name).attempt == 1


async def test_a_run_is_given_no_port_that_another_program_listens_on(lab: Lab) -> None:
    """Sabotage: look who listens only where a vm may be started. QEMU refuses then, in every attempt."""
    lab.host.listening += [Listener("127.0.0.1", port) for port in SSH_PORTS[:2]]
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
        assert lab.instance("tests").ssh_port == SSH_PORTS[2]
        lab.edit(desired())
        await nothing_left(lab)


@pytest.mark.parametrize("whose", ["host", "vms"])
async def test_a_job_that_can_never_fit_stops_no_other(lab: Lab, whose: str) -> None:
    """Neither one that is larger than the host, nor one for which the vms leave too little. Sabotage: let it stand
    first in line. No job then runs any more, and `run --once` never leaves."""
    lab.host.memory = 2 << 30
    lab.most_memory = 4 << 30
    large = (64 if whose == "host" else 3) << 30
    async with lab.running():
        lab.edit(desired(job("a-large", memory=large), job("b-small"), job("c-small")))
        await phase(lab, RunPhase.SUCCEEDED, "b-small")
        await phase(lab, RunPhase.SUCCEEDED, "c-small")
        await phase(lab, RunPhase.QUEUED, "a-large")
        await lab.until(lambda: judged(lab) is not None, "everything has come to rest")
        assert judged(lab) is False
        [waits] = [step for step in lab.passes[-1].plan.steps if step.name == "a-large"]
        assert isinstance(waits, Wait)
        assert (waits.kind, waits.reason) == ("job", "NotEnoughMemory")
        assert waits.because == (
            "memory 64GiB is more than this host has (4GiB)"
            if whose == "host"
            else "memory: it needs 3200MiB, 2GiB are free where no job runs"
        )


async def test_what_emulation_takes_beside_a_live_guest_is_kept_for_it(lab: Lab) -> None:
    """Sabotage: of a job under way, count its guest's memory alone."""
    lab.host.memory = 2 * (1 << 30) + (128 << 20)
    lab.host.scripts[Name("first")] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job("first", memory=1 << 30)))
        await phase(lab, RunPhase.RUNNING, "first")
        lab.edit(desired(job("first", memory=1 << 30), job("second", memory=1 << 30)))
        await phase(lab, RunPhase.QUEUED, "second")
        await lab.until(
            lambda: any(
                step.because == "memory: the first in line needs 1152MiB, 1GiB are free"
                for step in lab.passes[-1].plan.steps
            ),
            "it waits for the other's end",
        )


async def test_a_vm_whose_document_becomes_a_jobs_goes_before_the_job_runs(lab: Lab) -> None:
    """Sabotage: leave the name to the job. It then wants the port that the vm listens on, and nobody ends the vm."""
    async with lab.running():
        lab.edit(desired(vm("tests")))
        await lab.settled()
        lab.edit(desired(job(retries=NO_RETRIES)))
        run = await phase(lab, RunPhase.SUCCEEDED)
        assert run.attempt == 1
        assert not any(one.kind == "vm" for one in lab.ledger.instances())  # type: ignore[union-attr]
        await nothing_left(lab)
        lab.edit(desired(vm("tests")))
        await lab.settled()
        assert lab.instance("tests").kind == "vm"
        assert lab.uids().keys() == {TESTS}


@pytest.mark.parametrize("why", ["protected", "unproven"])
async def test_a_job_waits_for_a_vm_of_its_name_that_may_not_go(lab: Lab, why: str) -> None:
    async with lab.running():
        lab.edit(desired(vm("tests", protect=why == "protected")))
        await lab.settled()
        before = lab.uids()
        unproven = None if why == "protected" else "the tree is gone"
        lab.edit(desired(job(), unproven=unproven))
        await lab.until(lambda: judged(lab) is False, "everything has come to rest")
        told = {step.kind: step for step in lab.passes[-1].plan.steps}
        assert (told["vm"].action, told["job"].action) == ("hold", "wait")
        assert told["job"].because == f"a vm still has its name: {told['vm'].because}"
        assert lab.uids() == before
        assert runs(lab) == []
        lab.edit(desired(job(), vm("web")))
        if why == "unproven":
            await phase(lab, RunPhase.SUCCEEDED)
            await nothing_left(lab, "web")


async def test_a_port_that_an_ended_run_did_not_give_back_is_given_back(lab: Lab) -> None:
    """Its agent died between taking its VM away and that. Sabotage: look for a run's VM alone."""
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.SUCCEEDED)
        await lab.settled()
        assert lab.ledger is not None
        with lab.ledger.transaction() as change:
            change.put_name(replace(lab.ledger.name(TESTS), ssh_port=22000))
        lab.look()
        await nothing_left(lab)


async def test_an_agent_that_leaves_gives_runs_their_time_and_then_interrupts_them(
    lab: Lab,
) -> None:
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
    async with lab.running():
        assert last(lab).phase is RunPhase.INTERRUPTED
        await nothing_left(lab)


async def test_a_failed_vm_is_kept_for_a_look(lab: Lab) -> None:
    lab.host.scripts[TESTS] = Scripted(exit_code=1)
    async with lab.running():
        lab.edit(desired(job(keep_on_failure=0.5)))
        run = await phase(lab, RunPhase.FAILED)
        assert run.kept_until is not None
        assert [one.machine.name for one in lab.host.guests.values()] == ["tests"]
        lab.look()
        await nothing_left(lab)


@pytest.mark.parametrize("how", ["deleted", "edited", "held"])
async def test_what_is_kept_for_a_look_goes_with_its_document(lab: Lab, how: str) -> None:
    """Not where the document is only unreadable."""
    lab.host.scripts[TESTS] = Scripted(exit_code=1)
    kept = job(keep_on_failure=3600.0, retries=NO_RETRIES)
    async with lab.running():
        lab.edit(desired(kept))
        await phase(lab, RunPhase.FAILED)
        await lab.settled()
        match how:
            case "deleted":
                lab.edit(desired(vm("web")))
                await nothing_left(lab, "web")
            case "edited":
                lab.host.scripts[TESTS] = Scripted()
                lab.edit(desired(replace(kept, script="other")))
                await phase(lab, RunPhase.SUCCEEDED)
                await nothing_left(lab)
            case _:
                lab.edit(desired(problems=[replace(broken("tests"), kind="job")]))
                await lab.settled()
                assert [one.machine.name for one in lab.host.guests.values()] == ["tests"]


async def test_a_lost_ledger_makes_no_finished_job_run_again(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(job()))
        before = await phase(lab, RunPhase.SUCCEEDED)
        await lab.settled()
    lab.database.unlink()
    async with lab.running():
        await lab.settled()
        assert runs(lab) == [before]


async def test_a_lost_ledger_loses_no_run_that_is_under_way(lab: Lab) -> None:
    lab.host.scripts[TESTS] = Scripted(output=((0.0, b"one\n"), (0.5, b"two\n")))
    async with lab.killed():
        lab.edit(desired(job()))
        await phase(lab, RunPhase.RUNNING)
    lab.database.unlink()
    async with lab.running():
        lab.look()
        run = await phase(lab, RunPhase.SUCCEEDED)
        assert (run.attempt, len(runs(lab))) == (1, 1)
        await nothing_left(lab)
