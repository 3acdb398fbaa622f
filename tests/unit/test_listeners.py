"""What a pass asks of the host: who listens, only when the next step may need a port."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from agent.doing import Doing
from agent.hypervisor.api import Backend, Machine
from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.memory.world import Guest
from agent.observe import NoRecords, observe
from agent.plan import plan
from agent.policy import Policy
from agent.steps import Attempt, Create, Replace, Restart, Step, Update, Wait
from state.desired import Desired
from state.ids import Name
from state.lifecycle import Cause, Phase
from state.observed import Instance, Listener, Observed, image_key
from state.runs import Run, RunPhase
from state.spec.resolved import Forward, VmSpec
from tests.builders import (
    BASE,
    IMAGE,
    STATE_ID,
    broken,
    desired,
    instance,
    job,
    moment,
    process,
    run,
    running,
    vm,
)

BOOT = "boot-1"
PORT = Forward(8080, 80)


class Recorded(NoRecords):
    """A ledger with these instances and runs."""

    def __init__(self, instances: tuple[Instance, ...], runs: tuple[Run, ...] = ()) -> None:
        self._instances, self._runs = list(instances), list(runs)

    def instances(self) -> list[Instance]:
        return self._instances

    def runs(self) -> list[Run]:
        return self._runs


class Asked:
    """A host that remembers what it was asked for."""

    boot_id = BOOT

    def __init__(self) -> None:
        self.ports: list[set[int]] = []

    def boottime(self) -> float:
        return moment().boottime

    def listeners(self, of_interest: Collection[int]) -> Sequence[Listener]:
        self.ports.append(set(of_interest))
        return [Listener("127.0.0.1", 1)]

    def free_memory(self, promised: Mapping[int, int]) -> None:
        """Nobody asks."""

    def free_disk(self) -> None:
        """Nobody asks."""


def looked(
    wish: Desired, *rows: Instance, alive: bool = False, runs: tuple[Run, ...] = (), busy: str = ""
) -> tuple[Observed, list[set[int]]]:
    """What is observed, and the ports that the host was asked for. `busy`: a name with a step under way."""
    host, asked = MemoryHost(boot_id=BOOT), Asked()
    host.images[image_key(IMAGE)] = BASE
    backend: Backend = replace(host.backend(), host=asked)
    if alive:
        for row in rows:
            take_in(host, row)
    doing = Doing({Name(busy): "create: it is new"} if busy else {})
    observed = asyncio.run(observe(Recorded(rows, runs), backend, wish, doing))
    return observed, asked.ports


def take_in(host: MemoryHost, row: Instance) -> None:
    """Let the recorded process live."""
    machine = Machine(row.uid, row.name, row.generation, row.base, 1, 1 << 20, None, "tcg")
    host.guests[row.uid] = Guest(machine, 0, process=row.process)


def down(spec: VmSpec, phase: Phase, cause: Cause) -> Instance:
    return running(spec, phase=phase, cause=cause, process=None)


@pytest.mark.parametrize(
    "spec",
    [vm(power="stopped"), vm(restart="on_failure"), vm(restart="never"), vm(suspend=True)],
)  # fmt: skip
def test_one_that_is_down_and_stays_so_costs_no_question(spec: VmSpec) -> None:
    """Sabotage: ask whenever one is without a process. One vm that is stopped on purpose then costs every pass."""
    cause = Cause.POWER if spec.power == "stopped" else Cause.GUEST_OFF
    gone = down(spec, Phase.STOPPED, cause)
    assert looked(desired(spec), gone)[1] == []
    assert looked(desired(problems=[broken("web")]), gone)[1] == []


def test_what_runs_as_it_should_and_what_never_shall_cost_no_question() -> None:
    assert looked(desired(vm()), running(), alive=True)[1] == []
    assert looked(desired(vm(power="stopped")))[1] == []
    assert looked(desired())[1] == []


def test_what_is_being_done_costs_no_question() -> None:
    """Sabotage: ask for those that come up. With two hundred, the kernel is asked a hundred times in vain."""
    wish = desired(vm("web"), vm("db"))
    row = replace(instance(vm("web")), process=None)
    assert looked(desired(vm("web")), busy="web")[1] == []
    assert looked(desired(vm("web")), row, busy="web")[1] == []
    assert len(looked(wish, row, busy="web")[1]) == 1
    assert looked(desired(job()), busy="tests")[1] == []


@pytest.mark.parametrize(
    ("runs", "asks"),
    [
        ((), True),
        ((run(),), True),
        ((run(phase=RunPhase.SUCCEEDED, started_at=1.0),), False),
        ((run(job(script="#!/bin/sh\n"), RunPhase.SUCCEEDED, started_at=1.0),), True),
        ((run(phase=RunPhase.CANCELLED),), True),
        ((run(phase=RunPhase.FAILED, started_at=1.0), run(number=2)), True),
    ],
    ids=["new", "queued", "ended", "edited", "passed-over", "again"],
)
def test_a_run_that_may_begin_asks_and_one_that_has_ended_does_not(
    runs: tuple[Run, ...], asks: bool
) -> None:
    """Sabotage: ask for vms alone."""
    observed, asked = looked(desired(job()), runs=runs)
    decided = plan(desired(job()), observed, Policy(STATE_ID, "tcg"), moment())
    assert [isinstance(step, Attempt) for step in decided.steps] == [asks]
    assert bool(asked) is asks


@pytest.mark.parametrize(
    ("wish", "rows"),
    [
        (desired(vm(ports=(PORT,))), ()),
        (desired(vm(ports=(PORT,))), (running(),)),
        (desired(vm(ports=(PORT,))), (instance(vm(power="stopped")),)),
        (desired(problems=[broken("web")]), (running(vm(ports=(PORT,))),)),
        (desired(vm(ports=(PORT,))), (running(vm(ports=(PORT,)), forwards=(), ssh_port=22000),)),
    ],
    ids=["new", "changed", "never-started", "held-and-dead", "without-its-forwards"],
)
def test_the_ports_that_may_be_needed_are_asked_for(
    wish: Desired, rows: tuple[Instance, ...]
) -> None:
    [asked] = looked(wish, *rows)[1]
    assert 8080 in asked
    assert asked <= {8080, 22000}


PHASES = [Phase.STOPPED, Phase.CRASHED, Phase.RUNNING, Phase.STARTING, Phase.STOPPING]
SPECS: list[dict[str, Any]] = [
    {"power": power, "restart": restart, "suspend": suspend}
    for power, restart, suspend in product(
        ("running", "stopped", "paused"), ("always", "on_failure", "never"), (False, True)
    )
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "held"])
def test_nothing_is_started_without_asking(phase: Phase, wanted: bool) -> None:
    """Sabotage: take a crash for an end that is wanted. It is then restarted onto a port of another program."""
    for cause, fields in product(Cause, SPECS):
        spec = vm(**fields)
        row = replace(down(spec, phase, cause), process=process(boot_id="boot-0"))
        wish = desired(spec) if wanted else desired(problems=[broken("web")])
        observed, asked = looked(wish, row)
        decided = plan(wish, observed, Policy(STATE_ID, "tcg"), moment())
        starts = any(map(binds, decided.steps))
        assert asked or not starts, (cause, fields, decided.steps)


def binds(step: Step) -> bool:
    match step:
        case Create() | Replace() | Restart():
            return True
        case Update(forwards=forwards):
            return forwards is not None
        case Wait(reason=reason):
            return reason == "PortTaken"
        case _:
            return False
