"""What every hypervisor promises, tried through the seam alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.errors import HoldfastError, MonitorError, StartFailed
from agent.hypervisor.api import Found, Hypervisor, Kept, Machine, RunState
from state.ids import Process
from state.spec.resolved import Forward
from tests.contract.houses import House, Watched
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def another(house: House) -> AsyncIterator[Hypervisor]:
    """A second agent on the same host."""
    agent = house.agent()
    await agent.open(Watched().on_change)
    try:
        yield agent
    finally:
        await agent.close()


async def started(hypervisor: Hypervisor, machine: Machine) -> Process:
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    await hypervisor.resume(machine.uid)
    return process


async def becomes(hypervisor: Hypervisor, machine: Machine, state: RunState) -> None:
    await eventually(
        lambda: hypervisor.view(machine.uid).state is state, f"{machine.name} is {state}"
    )


async def ends(hypervisor: Hypervisor, machine: Machine, process: Process) -> None:
    await eventually(
        lambda: not hypervisor.alive(machine.uid, process) and not hypervisor.attached(machine.uid),
        f"the process of {machine.name} was seen to end",
    )


# A machine's life


async def test_a_spawned_machine_is_inert_until_it_is_resumed(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    assert hypervisor.alive(machine.uid, process)
    assert hypervisor.attached(machine.uid)
    assert hypervisor.view(machine.uid).state is RunState.INERT
    await hypervisor.resume(machine.uid)
    assert hypervisor.view(machine.uid).state is RunState.RUNNING
    assert process.boot_id == hypervisor.boot_id


async def test_pause_and_resume_show_at_once(house: House, hypervisor: Hypervisor) -> None:
    machine = house.machine()
    await started(hypervisor, machine)
    for _ in range(2):
        await hypervisor.pause(machine.uid)
        assert hypervisor.view(machine.uid).state is RunState.PAUSED
        await hypervisor.resume(machine.uid)
        assert hypervisor.view(machine.uid).state is RunState.RUNNING


async def test_what_was_not_prepared_does_not_start(house: House, hypervisor: Hypervisor) -> None:
    with pytest.raises(StartFailed):
        await hypervisor.spawn(house.machine())
    assert hypervisor.scan() == []


async def test_a_machine_that_runs_is_found_and_not_doubled(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    assert await hypervisor.spawn(machine) == process
    assert len(hypervisor.scan()) == 1
    assert hypervisor.view(machine.uid).state is RunState.RUNNING


async def test_preparing_again_is_allowed_before_and_after_the_start(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    await hypervisor.prepare(machine)
    process = await started(hypervisor, machine)
    await hypervisor.prepare(replace(machine, record='{"later": true}'))
    assert hypervisor.alive(machine.uid, process)
    assert [kept.record for kept in hypervisor.kept()] == ['{"later": true}']


async def test_many_machines_start_side_by_side(house: House, hypervisor: Hypervisor) -> None:
    machines = [house.machine(f"web-{number}") for number in range(6)]
    processes = await asyncio.gather(*(started(hypervisor, machine) for machine in machines))
    assert len({process.pid for process in processes}) == 6
    states = {hypervisor.view(machine.uid).state for machine in machines}
    assert states == {RunState.RUNNING}


# Who is there


async def test_a_scan_tells_what_runs_and_what_is_kept_outlives_it(
    house: House, hypervisor: Hypervisor
) -> None:
    machine, other = house.machine(), house.machine("other")
    process = await started(hypervisor, machine)
    await hypervisor.prepare(other)
    found = Found(machine.uid, process, machine.name, machine.generation, machine.record)
    assert hypervisor.scan() == [found]
    kept = [Kept(one.uid, one.name, one.generation, one.record) for one in (machine, other)]
    assert sorted(hypervisor.kept(), key=lambda one: one.uid) == sorted(
        kept, key=lambda one: one.uid
    )
    assert [one.uid for one in hypervisor.kept({machine.uid})] == [other.uid]
    await hypervisor.stop(machine.uid, process, 0.0)
    assert hypervisor.scan() == []
    assert len(hypervisor.kept()) == 2
    await hypervisor.discard(machine.uid)
    assert [one.uid for one in hypervisor.kept()] == [other.uid]


async def test_only_the_very_same_process_is_alive(house: House, hypervisor: Hypervisor) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    for stranger in (
        replace(process, start_ticks=process.start_ticks + 1),
        replace(process, boot_id="another boot"),
        replace(process, pid=process.pid + 100_000),
    ):
        assert not hypervisor.alive(machine.uid, stranger)
    assert hypervisor.alive(machine.uid, process)


async def test_the_live_process_of_a_machine_is_told_whoever_started_it(
    house: House, hypervisor: Hypervisor
) -> None:
    machine, other = house.machine(), house.machine("other")
    assert hypervisor.process_of(machine.uid) is None
    await hypervisor.prepare(machine)
    assert hypervisor.process_of(machine.uid) is None
    process = await started(hypervisor, machine)
    await started(hypervisor, other)
    assert hypervisor.process_of(machine.uid) == process
    await hypervisor.close()
    async with another(house) as later:
        assert later.process_of(machine.uid) == process
        await later.stop(machine.uid, process, 0.0)
        assert later.process_of(machine.uid) is None
        assert later.process_of(other.uid) is not None
        await later.discard(machine.uid)
        assert later.process_of(machine.uid) is None


async def test_a_machine_is_described_anew_and_otherwise_the_same(
    house: House, hypervisor: Hypervisor
) -> None:
    machine, other = house.machine(), house.machine("other")
    await hypervisor.describe(machine.uid, "{}")
    assert hypervisor.kept() == []
    await hypervisor.prepare(other)
    process = await started(hypervisor, machine)
    said = '{"later": "\u00fc\\n"}'
    await hypervisor.describe(machine.uid, said)
    async with another(house) as later:
        kept = {one.uid: one for one in later.kept()}
        assert kept[machine.uid] == Kept(machine.uid, machine.name, machine.generation, said)
        assert kept[other.uid].record == other.record
        assert [found.record for found in later.scan()] == [said]
    await hypervisor.stop(machine.uid, process, 0.0)
    await hypervisor.describe(machine.uid, "{}")
    assert {one.uid: one.record for one in hypervisor.kept()}[machine.uid] == "{}"


# The end of a machine


async def test_a_stopped_machine_is_gone_when_stop_returns(
    house: House, hypervisor: Hypervisor, watched: Watched
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, process, 0.0)
    assert not hypervisor.alive(machine.uid, process)
    assert not hypervisor.attached(machine.uid)
    assert hypervisor.view(machine.uid).state is None
    assert hypervisor.exit_of(machine.uid) is not None
    assert any(uid == machine.uid for uid, _ in watched.heard)
    await hypervisor.stop(machine.uid, process, 0.0)


async def test_a_stopped_machine_starts_again_from_its_files(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    first = await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, first, 0.0)
    second = await started(hypervisor, machine)
    assert second != first
    assert hypervisor.exit_of(machine.uid) is None
    assert hypervisor.view(machine.uid).state is RunState.RUNNING


async def test_a_guest_that_obeys_is_not_waited_for_any_longer(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine(guest="obedient")
    process = await started(hypervisor, machine)
    house.led_astray(machine.uid)
    async with asyncio.timeout(20):
        await hypervisor.stop(machine.uid, process, 40.0)
    assert not hypervisor.alive(machine.uid, process)


async def test_a_guest_that_ignores_the_button_is_ended_after_its_grace(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    house.led_astray(machine.uid)
    begun = asyncio.get_running_loop().time()
    await hypervisor.stop(machine.uid, process, 1.0)
    assert asyncio.get_running_loop().time() - begun >= 1.0
    assert not hypervisor.alive(machine.uid, process)


async def test_a_frozen_machine_can_be_stopped(house: House, hypervisor: Hypervisor) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    house.freeze(machine.uid, process, True)
    await eventually(lambda: not hypervisor.view(machine.uid).responsive, "its silence is noticed")
    await hypervisor.stop(machine.uid, process, 0.0)
    assert not hypervisor.alive(machine.uid, process)


async def test_a_killed_machine_is_noticed_without_asking(
    house: House, hypervisor: Hypervisor, watched: Watched
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    watched.heard.clear()
    house.kill(machine.uid, process)
    await ends(hypervisor, machine, process)
    assert hypervisor.exit_of(machine.uid) is not None
    assert {uid for uid, _ in watched.heard} == {machine.uid}
    assert hypervisor.scan() == []
    with pytest.raises(MonitorError):
        await hypervisor.resume(machine.uid)


async def test_discarding_is_refused_while_it_lives_and_may_be_repeated_after(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    with pytest.raises(HoldfastError):
        await hypervisor.discard(machine.uid)
    assert hypervisor.alive(machine.uid, process)
    await hypervisor.stop(machine.uid, process, 0.0)
    await hypervisor.discard(machine.uid)
    await hypervisor.discard(machine.uid)
    assert hypervisor.exit_of(machine.uid) is None
    with pytest.raises(StartFailed):
        await hypervisor.spawn(machine)


# What guests do


@pytest.mark.parametrize(("guest", "state"), [("off", RunState.OFF), ("panic", RunState.PANICKED)])
async def test_a_guest_that_ends_leaves_its_process_to_tell(
    house: House, hypervisor: Hypervisor, guest: str, state: RunState
) -> None:
    machine = house.machine(guest=guest)  # type: ignore[arg-type]  # one of the literals
    process = await started(hypervisor, machine)
    house.led_astray(machine.uid)
    await becomes(hypervisor, machine, state)
    assert hypervisor.alive(machine.uid, process)
    async with another(house) as later:
        await hypervisor.close()
        await later.attach(machine.uid, process)
        await becomes(later, machine, state)
        await later.stop(machine.uid, process, 30.0)
        assert not later.alive(machine.uid, process)


async def test_a_frozen_machine_is_unresponsive_until_it_is_thawed(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    house.freeze(machine.uid, process, True)
    await eventually(lambda: not hypervisor.view(machine.uid).responsive, "its silence is noticed")
    assert hypervisor.view(machine.uid).state is RunState.RUNNING
    assert hypervisor.alive(machine.uid, process)
    with pytest.raises(MonitorError):
        await hypervisor.pause(machine.uid)
    house.freeze(machine.uid, process, False)
    await eventually(lambda: hypervisor.view(machine.uid).responsive, "it is heard again")
    assert hypervisor.view(machine.uid).state is RunState.RUNNING


# Agents come and go


async def test_machines_live_on_without_an_agent_and_obey_the_next(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.close()
    assert not hypervisor.attached(machine.uid)
    async with another(house) as later:
        assert [found.process for found in later.scan()] == [process]
        assert not later.attached(machine.uid)
        await later.attach(machine.uid, process)
        assert later.attached(machine.uid)
        await becomes(later, machine, RunState.RUNNING)
        await later.pause(machine.uid)
        assert later.view(machine.uid).state is RunState.PAUSED
        await later.stop(machine.uid, process, 0.0)
        assert later.scan() == []


async def test_an_orphan_that_was_never_resumed_is_found_inert(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    await hypervisor.close()
    async with another(house) as later:
        assert await later.spawn(machine) == process
        await becomes(later, machine, RunState.INERT)
        await later.resume(machine.uid)
        assert later.view(machine.uid).state is RunState.RUNNING


async def test_a_new_agent_stops_what_it_never_attached(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.close()
    async with another(house) as later:
        await later.stop(machine.uid, process, 0.0)
        assert not later.alive(machine.uid, process)
        await later.discard(machine.uid)
        assert later.kept() == []


async def test_attaching_to_what_has_ended_attaches_nothing(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, process, 0.0)
    await hypervisor.attach(machine.uid, process)
    assert not hypervisor.attached(machine.uid)


async def test_a_start_that_is_cut_off_can_be_repeated(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    cut_off = asyncio.ensure_future(hypervisor.spawn(machine))
    await asyncio.sleep(0)
    cut_off.cancel()
    await asyncio.wait((cut_off,))
    process = await hypervisor.spawn(machine)
    assert [found.process for found in hypervisor.scan()] == [process]
    await becomes(hypervisor, machine, RunState.INERT)


# Changes to a live machine


async def test_forwards_change_while_it_runs(
    house: House, hypervisor: Hypervisor, free_ports: list[int]
) -> None:
    first, second = Forward(free_ports[0], 22), Forward(free_ports[1], 80)
    machine = house.machine(forwards=(first,))
    process = await started(hypervisor, machine)
    await hypervisor.set_forwards(machine.uid, [first, second])
    await hypervisor.set_forwards(machine.uid, [first, second])
    await hypervisor.set_forwards(machine.uid, [second])
    assert hypervisor.alive(machine.uid, process)


async def test_a_machine_that_is_not_supervised_takes_no_commands(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, hypervisor.scan()[0].process, 0.0)
    for command in (
        hypervisor.resume(machine.uid),
        hypervisor.pause(machine.uid),
        hypervisor.set_forwards(machine.uid, []),
    ):
        with pytest.raises(MonitorError):
            await command


async def test_a_disk_grows_whether_its_machine_runs_or_not(
    house: House, hypervisor: Hypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    await hypervisor.grow(machine.uid, 8 << 20)
    process = await started(hypervisor, machine)
    await hypervisor.grow(machine.uid, 16 << 20)
    await hypervisor.grow(machine.uid, 8 << 20)
    await hypervisor.stop(machine.uid, process, 0.0)
    await hypervisor.grow(machine.uid, 32 << 20)
    await started(hypervisor, machine)
