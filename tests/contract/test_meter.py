"""What every meter promises, tried through the seam alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.hypervisor.api import Hypervisor, Machine, Meter, RunState, Usage
from state.ids import Process
from tests.contract.houses import House
from tests.e2e.steps import started
from tests.waiting import DEADLINE, eventually

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def meter(house: House, hypervisor: Hypervisor) -> AsyncIterator[Meter]:
    made = house.meter(hypervisor)
    yield made
    made.close()


async def used(meter: Meter, machine: Machine, process: Process) -> Usage:
    return (await meter.read({machine.uid: process}))[machine.uid]


async def test_a_running_machine_is_told_with_its_processors_and_its_disk(
    house: House, hypervisor: Hypervisor, meter: Meter
) -> None:
    machine = house.machine(cpus=2)
    process = await started(hypervisor, machine)
    found = await used(meter, machine, process)
    assert (found.process, found.state) == (process, RunState.RUNNING)
    assert len(found.vcpu_seconds) == machine.cpus
    assert found.resident_bytes > 0
    assert "root" in [disk.name for disk in found.disks]
    assert found.balloon_bytes == machine.memory
    # Nothing in this guest speaks to its balloon, which is not the same as nothing in use.
    assert found.guest_total_bytes is None
    assert found.guest_available_bytes is None


async def test_counters_of_one_process_never_fall(
    house: House, hypervisor: Hypervisor, meter: Meter
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    before = await used(meter, machine, process)
    for _ in range(8):
        after = await used(meter, machine, process)
        assert after.cpu_seconds >= before.cpu_seconds
        assert sum(after.vcpu_seconds) >= sum(before.vcpu_seconds)
        assert all(
            new.read_bytes >= old.read_bytes and new.writes >= old.writes
            for old, new in zip(before.disks, after.disks, strict=True)
        )
        before = after


async def test_one_that_stands_still_or_is_gone_is_left_out_and_the_others_are_told(
    house: House, hypervisor: Hypervisor, meter: Meter
) -> None:
    machines = [house.machine(name) for name in ("stopped", "killed", "well")]
    processes = {one.uid: await started(hypervisor, one) for one in machines}
    stopped, killed, well = machines
    assert (await meter.read(processes)).keys() == processes.keys()
    house.freeze(stopped.uid, processes[stopped.uid], True)
    house.kill(killed.uid, processes[killed.uid])
    assert (await meter.read(processes)).keys() == {well.uid}
    house.freeze(stopped.uid, processes[stopped.uid], False)
    await eventually(lambda: hypervisor.view(stopped.uid).responsive, "it answers again")
    async with asyncio.timeout(DEADLINE):
        while stopped.uid not in await meter.read(processes):
            pass


async def test_another_process_of_the_same_machine_is_not_taken_for_it(
    house: House, hypervisor: Hypervisor, meter: Meter
) -> None:
    machine = house.machine()
    first = await started(hypervisor, machine)
    assert await meter.read({machine.uid: first})
    await hypervisor.stop(machine.uid, first, 0.0)
    assert not await meter.read({machine.uid: first})
    second = await hypervisor.spawn(machine)
    assert not await meter.read({machine.uid: first})
    assert (await used(meter, machine, second)).process == second


async def test_the_next_agent_is_let_in_when_the_one_before_has_left(
    house: House, hypervisor: Hypervisor, meter: Meter
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    assert await meter.read({machine.uid: process})
    meter.close()
    following = house.meter(hypervisor)
    assert (await following.read({machine.uid: process})).keys() == {machine.uid}
    following.close()
