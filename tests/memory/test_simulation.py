"""That the simulation finds nothing wrong with holdfast, and finds what is wrong with a holdfast that was broken."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import agent.loop
import agent.plan
from agent.execute import Executor
from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.memory.session import MemorySession
from agent.jobs.masking import Masker
from agent.loop import Agent
from agent.machines import Machines
from agent.record import Recorder
from agent.simulation.history import Told, live
from agent.simulation.life import Life

STEPS = 40


@pytest.mark.parametrize("seed", range(20))
def test_no_promise_is_broken(seed: int) -> None:
    """Sabotage: everything below."""
    told = live(seed, STEPS, 6)
    assert not told.violations, f"holdfast simulate --seed {seed} --steps {STEPS}"
    assert told.agents
    assert told.passes


def test_a_seed_gives_the_same_history_each_time() -> None:
    def once() -> list[Any]:
        words = [sys.executable, "-m", "agent", "simulate", "--seed", "5", "--steps", "30"]
        done = subprocess.run(
            [*words, "--histories", "2", "-o", "json"],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": "random"},
        )
        histories: list[Any] = json.loads(done.stdout)["histories"]
        return histories

    first = once()
    assert first == once()
    assert first[0]["trace"] != first[1]["trace"]


@pytest.mark.parametrize(
    ("seed", "steps"),
    # A replacement that had lost its record of the ports that it was given kept the next one from starting for ever.
    [(181, 20), (937, 20)],
)
def test_a_history_that_broke_a_promise_once_breaks_none(seed: int, steps: int) -> None:
    words = [sys.executable, "-m", "agent", "simulate", "--seed", str(seed), "--steps", str(steps)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_many_machines_come_to_rest() -> None:
    told = live(1, 3, 300)
    assert not told.violations


Sabotage = Callable[[pytest.MonkeyPatch], None]


def _runs_beside(monkey: pytest.MonkeyPatch) -> None:
    async def end(*_: Any) -> None:
        """Leaves the old machine running, and lets the new one go."""

    monkey.setattr(Machines, "end", end)
    # Else the port of the old machine keeps the new one from running.
    monkey.setattr(MemoryHost, "taken", lambda *_: None)


def _loses_strangers(monkey: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any, **__: Any) -> bool:
        return False

    monkey.setattr(agent.loop, "recover", nothing)
    monkey.setattr(agent.loop, "take_in_strangers", nothing)


def _destroys_what_is_held(monkey: pytest.MonkeyPatch) -> None:
    def held(self: Any, name: Any, _reason: str, _why: str) -> Any:
        return self._absent(name, self._seen.get(name, []))

    monkey.setattr(agent.plan._Pass, "_held", held)


def _writes_every_pass(monkey: pytest.MonkeyPatch) -> None:
    record = Recorder.record

    def again(self: Recorder, done: Any, wall: float) -> None:
        self._source = None
        record(self, done, wall)

    monkey.setattr(Recorder, "record", again)


def _waits_for_everybody(monkey: pytest.MonkeyPatch) -> None:
    act = Agent._act

    def only_if_all_answer(self: Agent, done: Any, *more: Any) -> None:
        if all(seen.view.responsive for seen in done.observed.instances):
            act(self, done, *more)

    monkey.setattr(Agent, "_act", only_if_all_answer)


def _begins_again(monkey: pytest.MonkeyPatch) -> None:
    begin = MemorySession.begin

    async def forgetful(self: MemorySession, run: str) -> bool:
        guest = self._host.guests.get(self._uid)
        if guest is not None and run in guest.works:
            guest.works[run].begun_at = None
        return await begin(self, run)

    monkey.setattr(MemorySession, "begin", forgetful)


def _hides_nothing(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(Masker, "_spans", lambda *_: iter(()))


def _forgets_what_it_told(monkey: pytest.MonkeyPatch) -> None:
    bury = Life.bury

    def forgetful(self: Life) -> None:
        with suppress(sqlite3.Error):
            self.ledger._connection.execute("DELETE FROM events")
        bury(self)

    monkey.setattr(Life, "bury", forgetful)


def _lets_the_dead_lie(monkey: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        """A restart that is recorded as done, and is not. It takes its time, or there would be no end of them."""
        await asyncio.sleep(10.0)

    monkey.setattr(Executor, "_restart", nothing)


@pytest.mark.parametrize(
    ("sabotage", "promises"),
    [
        (_runs_beside, {"I1"}),
        (_loses_strangers, {"I3", "I11"}),
        (_destroys_what_is_held, {"I4"}),
        (_writes_every_pass, {"I5"}),
        (_waits_for_everybody, {"I6"}),
        (_begins_again, {"I7"}),
        (_forgets_what_it_told, {"I9"}),
        (_hides_nothing, {"I10"}),
        (_lets_the_dead_lie, {"I6", "I11"}),
    ],
)
def test_a_broken_holdfast_is_found_out(
    monkeypatch: pytest.MonkeyPatch, sabotage: Sabotage, promises: set[str]
) -> None:
    """One of the promises that the sabotage breaks is named, by one of a hundred histories."""
    sabotage(monkeypatch)
    assert any(promises & broken(live(seed, STEPS, 6)) for seed in range(100))


def broken(told: Told) -> set[str]:
    return {violation.promise for violation in told.violations}
