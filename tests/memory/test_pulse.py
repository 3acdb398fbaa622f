"""The loop's sign of life: given as long as the loop goes on, whatever it waits for, and by nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent.loop
from agent.notify import Manager
from state.runs import RunPhase
from tests.builders import desired, job, vm
from tests.listening import Ear, ear
from tests.memory.test_jobs import FOR_EVER, NO_RETRIES, TESTS, phase
from tests.memory.world import Lab

EVERY = 0.04
"""Seconds within which the manager of these tests wants to hear something."""
MORE = 3


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Ear]:
    with ear(tmp_path / "notify") as made:
        yield made


@pytest.fixture
def lab(tmp_path: Path, heard: Ear) -> Lab:
    return Lab(tmp_path / "state.db", manager=Manager(heard.address, EVERY))


async def goes_on(lab: Lab, heard: Ear) -> None:
    before = heard.count("WATCHDOG=1")
    await lab.until(lambda: heard.count("WATCHDOG=1") >= before + MORE, "it says that it lives")


async def test_it_is_ready_then_lives_then_leaves(lab: Lab, heard: Ear) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        await goes_on(lab, heard)
    words = heard.words()
    assert words[0] == "READY=1"
    assert words.count("READY=1") == words.count("STOPPING=1") == 1


async def test_a_wait_for_long_does_not_make_it_look_more_often(lab: Lab, heard: Ear) -> None:
    """Sabotage: take a shorter wait for the end of the wait."""
    async with lab.running():
        await lab.settled()
        number = len(lab.passes)
        await goes_on(lab, heard)
        assert len(lab.passes) <= number + 1


async def test_it_lives_while_its_source_does_not_answer(lab: Lab, heard: Ear) -> None:
    """Sabotage: wait for the source without a word."""
    answer = threading.Event()
    lab.source.answers = answer.wait
    try:
        async with lab.running():
            await lab.until(lambda: lab.source.asked, "the source is asked")
            await goes_on(lab, heard)
            answer.set()
    finally:
        answer.set()


async def test_it_lives_while_jobs_have_their_time_to_end(lab: Lab, heard: Ear) -> None:
    lab.drain_timeout = 3600.0
    lab.host.scripts[TESTS] = FOR_EVER
    async with lab.running():
        lab.edit(desired(job(retries=NO_RETRIES)))
        await phase(lab, RunPhase.RUNNING)
        assert lab.agent is not None
        lab.agent.stop()
        await lab.until(lambda: heard.count("STOPPING=1") == 1, "it says that it leaves")
        await goes_on(lab, heard)


async def test_a_loop_that_hangs_gives_no_sign_though_all_beside_it_go_on(
    lab: Lab, heard: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: give the sign from a task of its own."""
    stuck = asyncio.Event()

    async def never(*_: object) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async with lab.killed():
        lab.edit(desired(vm("web")))
        await lab.settled()
        monkeypatch.setattr(agent.loop, "observe", never)
        lab.look()
        await lab.until(stuck.is_set, "a pass hangs")
        before, end = heard.count("WATCHDOG=1"), lab.host.clock() + 10 * EVERY
        await lab.until(lambda: lab.host.clock() > end, "the other tasks go on")
        assert heard.count("WATCHDOG=1") == before
