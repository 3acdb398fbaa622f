"""Real QEMUs that fail, hang, are killed or lose their agent, and what must then be so."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.errors import MonitorError, StartFailed
from agent.hypervisor.api import Exit, RunState
from agent.hypervisor.qemu.driver import QemuHypervisor
from agent.hypervisor.qemu.monitor import Timing
from agent.hypervisor.qemu.process import Handle, identify
from state.spec.resolved import Forward
from tests.contract.houses import QemuHouse, Watched, qemu_house
from tests.e2e.qmp import connected
from tests.e2e.steps import another, run, started, told, within
from tests.waiting import eventually

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(90)]


# Starts that fail


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/bin/false", "exited with status 1"),
        ("no-such-qemu", "no-such-qemu"),
        ("/dev/null", "Permission denied"),
    ],
)
async def test_a_qemu_that_cannot_run_is_told_at_once(
    house: QemuHouse, program: str, said: str
) -> None:
    machine = house.machine()
    agent = QemuHypervisor(house.paths, house.state_id, qemu=program, timing=house.timing)
    await agent.open(Watched().on_change)
    await agent.prepare(machine)
    async with within(5):
        with pytest.raises(StartFailed, match=said):
            await agent.spawn(machine)
    assert not agent.attached(machine.uid)
    await agent.close()


async def test_a_qemu_that_refuses_its_options_is_quoted(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine(memory=1 << 50)
    await hypervisor.prepare(machine)
    async with within(5):
        with pytest.raises(StartFailed, match=r"web did not start: exited with status 1: .*memory"):
            await hypervisor.spawn(machine)
    assert hypervisor.scan() == []


async def test_a_port_that_was_taken_meanwhile_is_named(
    house: QemuHouse, hypervisor: QemuHypervisor, free_ports: list[int]
) -> None:
    port = free_ports[0]
    holder, late = (
        house.machine("holder", forwards=(Forward(port, 22),)),
        house.machine(forwards=(Forward(port, 22),)),
    )
    await started(hypervisor, holder)
    await hypervisor.prepare(late)
    with pytest.raises(StartFailed, match=f"tcp:127.0.0.1:{port}-:22.* listens on port {port}"):
        await hypervisor.spawn(late)


async def test_a_qemu_killed_while_it_starts_is_a_failed_start(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    start = asyncio.ensure_future(hypervisor.spawn(machine))
    await eventually(hypervisor.scan, "it is there")
    house.kill(machine.uid, hypervisor.scan()[0].process)
    with pytest.raises(StartFailed, match="killed by SIGKILL"):
        await start
    await started(hypervisor, machine)


async def test_a_disk_in_use_is_refused_even_without_our_own_lock(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    house.paths.instance(machine.uid).pid_file.unlink()
    async with another(house) as later:
        with pytest.raises(StartFailed, match=r"Failed to get \"write\" lock"):
            await later.spawn(machine)
    assert hypervisor.alive(machine.uid, process)
    assert [found.process for found in hypervisor.scan()] == [process]


async def test_a_lock_whose_holder_is_nobody_we_know_is_a_failed_start(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    pid_file = house.paths.instance(machine.uid).pid_file
    pid_file.touch()
    with holding(pid_file), pytest.raises(StartFailed, match="another process holds its lock"):
        await hypervisor.spawn(machine)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """A process that is no machine holds the lock of the file."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "60"], pass_fds=(file.fileno(),))
    try:
        yield
    finally:
        child.kill()
        child.wait()


# An agent that is killed

AGENT = """
import asyncio, json, os, signal, sys
from pathlib import Path
from agent.hypervisor.api import BaseImage, Machine
from agent.hypervisor.qemu.driver import QemuHypervisor
from agent.paths import StatePaths

async def main(root, state_id, fields):
    fields["base"] = BaseImage(**{**fields["base"], "path": Path(fields["base"]["path"])})
    fields["forwards"] = ()
    agent = QemuHypervisor(StatePaths(Path(root)), state_id)
    await agent.open(lambda uid, word: None)
    await agent.prepare(Machine(**fields))
    await agent.spawn(Machine(**fields))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
"""


async def test_what_a_killed_agent_spawned_is_inert_found_and_obeys(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    words = [sys.executable, "-c", AGENT, str(house.paths.root), house.state_id]
    assert run(*words, json.dumps(asdict(machine), default=str)) == -signal.SIGKILL
    (found,) = hypervisor.scan()
    assert (found.uid, found.name, found.generation) == (machine.uid, "web", 1)
    await hypervisor.attach(found.uid, found.process)
    await eventually(lambda: hypervisor.view(machine.uid).state is RunState.INERT, "it is inert")
    await hypervisor.resume(machine.uid)
    assert hypervisor.view(machine.uid).state is RunState.RUNNING
    house.kill(machine.uid, found.process)
    assert (await told(hypervisor, machine)).status is None


# Monitors


async def test_a_stopped_qemu_is_unresponsive_within_five_seconds_and_back_by_itself() -> None:
    async with qemu_house(Timing()) as house:
        watched = Watched()
        hypervisor = house.agent()
        await hypervisor.open(watched.on_change)
        machine, other = house.machine(), house.machine("other")
        process = await started(hypervisor, machine)
        await started(hypervisor, other)
        house.freeze(machine.uid, process, True)
        await eventually(
            lambda: not hypervisor.view(machine.uid).responsive, "it is unresponsive", 5.0
        )
        async with within(0.5):
            await hypervisor.pause(other.uid)
        assert hypervisor.view(machine.uid).detail == "its monitor did not answer within 2 s"
        house.freeze(machine.uid, process, False)
        await eventually(lambda: hypervisor.view(machine.uid).responsive, "it is back", 1.0)
        words = [word for uid, word in watched.heard if uid == machine.uid]
        assert words[-2:] == ["unresponsive", "running"]
        await hypervisor.close()


async def test_a_stopped_qemu_that_is_adopted_is_heard_when_it_goes_on(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.close()
    house.freeze(machine.uid, process, True)
    async with another(house) as later:
        await later.attach(machine.uid, process)
        await eventually(lambda: not later.view(machine.uid).responsive, "its silence is noticed")
        house.freeze(machine.uid, process, False)
        await eventually(lambda: later.view(machine.uid).state is RunState.RUNNING, "it is heard")


async def test_an_agent_that_was_held_up_itself_calls_nobody_silent(
    house: QemuHouse, hypervisor: QemuHypervisor, watched: Watched
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    house.freeze(machine.uid, process, True)
    # A question is under way by now, and its answer comes while nobody listens.
    await asyncio.sleep(2 * house.timing.heartbeat)
    house.freeze(machine.uid, process, False)
    held_up(2 * house.timing.silence)
    await asyncio.sleep(2 * house.timing.heartbeat)
    assert "unresponsive" not in [word for _, word in watched.heard]


def held_up(seconds: float) -> None:
    """Keep the event loop from running, as SIGSTOP or a suspended host does."""
    time.sleep(seconds)


async def test_a_monitor_that_somebody_else_holds_is_unresponsive_until_he_leaves(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.close()
    async with another(house) as later:
        async with connected(house.paths.instance(machine.uid).qmp_socket) as other:
            assert (await other.ask("query-status"))["status"] == "running"
            await later.attach(machine.uid, process)
            await eventually(
                lambda: not later.view(machine.uid).responsive, "it does not get through"
            )
            assert later.alive(machine.uid, process)
            assert later.attached(machine.uid)
        await eventually(
            lambda: later.view(machine.uid).state is RunState.RUNNING, "it gets through"
        )


async def test_another_machine_behind_the_socket_is_not_commanded(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine, other = house.machine(), house.machine("other")
    process = await started(hypervisor, machine)
    other_process = await started(hypervisor, other)
    await hypervisor.close()
    socket = house.paths.instance(machine.uid).qmp_socket
    socket.unlink()
    house.paths.instance(other.uid).qmp_socket.rename(socket)
    async with another(house) as later:
        await later.attach(machine.uid, process)
        await eventually(
            lambda: "another machine" in later.view(machine.uid).detail, "it is recognised"
        )
        with pytest.raises(MonitorError, match="another machine"):
            await later.pause(machine.uid)
        await later.stop(machine.uid, process, 0.0)
        assert not later.alive(machine.uid, process)
        assert later.alive(other.uid, other_process)


async def test_a_guest_that_resets_for_ever_is_counted_and_floods_nobody(
    house: QemuHouse, hypervisor: QemuHypervisor, watched: Watched
) -> None:
    machine = house.machine(guest="reset")
    process = await started(hypervisor, machine)
    await eventually(lambda: hypervisor.view(machine.uid).resets >= 3, "its resets are counted")
    assert len(watched.heard) < 10
    assert hypervisor.view(machine.uid).state is RunState.RUNNING
    assert hypervisor.alive(machine.uid, process)


# Ends


@pytest.mark.parametrize(
    ("number", "text", "status"),
    [
        (signal.SIGKILL, "killed by SIGKILL", -9),
        (signal.SIGTERM, "ended by a signal that somebody on this host sent", 0),
    ],
)
async def test_a_process_that_was_signalled_says_so(
    house: QemuHouse, hypervisor: QemuHypervisor, number: signal.Signals, text: str, status: int
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    held = Handle.hold(process)
    assert held is not None
    held.signal(number)
    held.close()
    assert await told(hypervisor, machine) == Exit(text, status)
    assert identify(process.pid, process.boot_id) is None, "a zombie was left"


async def test_a_paused_guest_is_let_run_to_end_itself(
    house: QemuHouse, hypervisor: QemuHypervisor, watched: Watched
) -> None:
    machine = house.machine(guest="obedient")
    process = await started(hypervisor, machine)
    console = house.paths.instance(machine.uid).console_log
    await eventually(lambda: b"R" in console.read_bytes(), "it listens for its button")
    await hypervisor.pause(machine.uid)
    async with within(10):
        await hypervisor.stop(machine.uid, process, 40.0)
    assert not hypervisor.alive(machine.uid, process)
    assert (machine.uid, "off") in watched.heard
