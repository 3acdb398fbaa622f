"""Logs, ports, disks and descriptors of real QEMUs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.errors import Blocked, MonitorError, StartFailed
from agent.hypervisor.api import RunState
from agent.hypervisor.qemu import logs
from agent.hypervisor.qemu.argv import mark
from agent.hypervisor.qemu.driver import QemuHypervisor
from agent.paths import older
from state.ids import Uid
from state.spec.resolved import Forward
from tests.contract.houses import QemuHouse, Watched, qemu_house
from tests.e2e.confinement import listening
from tests.e2e.qmp import connected
from tests.e2e.site import Site
from tests.e2e.steps import run, started, within
from tests.waiting import eventually

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(90)]


async def test_a_log_that_is_cut_while_the_guest_writes_has_no_holes(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine(guest="chatter")
    await started(hypervisor, machine)
    console = house.paths.instance(machine.uid).console_log
    await eventually(lambda: size_of(console) > 20_000, "it chatters")
    assert logs.bound(console, 10_000)
    await eventually(lambda: size_of(console) > 1_000, "it goes on")
    assert set(console.read_bytes()) == set(older(console).read_bytes()) == {ord("!")}


async def test_a_console_client_that_does_not_read_holds_up_the_serial_line_and_nothing_else(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    """A guest's serial line waits for its reader, as a wire with flow control does; its log waits with it."""
    machine = house.machine(guest="chatter")
    await started(hypervisor, machine)
    console = house.paths.instance(machine.uid).console_log
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(house.paths.instance(machine.uid).console_socket))
        await eventually(lambda: size_of(console) > 200, "it fills the socket")
        async with within(1):
            await hypervisor.pause(machine.uid)
            await hypervisor.resume(machine.uid)
        assert hypervisor.view(machine.uid).responsive
    before = size_of(console)
    await eventually(lambda: size_of(console) > before + 10_000, "it goes on without the client")


def size_of(path: Path) -> int:
    return path.stat().st_size


# Networks


async def test_forwards_become_what_is_asked_for_whatever_they_were(
    house: QemuHouse, hypervisor: QemuHypervisor, free_ports: list[int]
) -> None:
    first, second, third = (Forward(port, 22) for port in free_ports[:3])
    machine = house.machine(forwards=(first, second))
    process = await started(hypervisor, machine)
    elsewhere = Forward(first.host, 80)
    await hypervisor.set_forwards(machine.uid, [elsewhere, third])
    assert listening(process.pid) == {("127.0.0.1", first.host), ("127.0.0.1", third.host)}
    async with connected(house.paths.instance(machine.uid).metrics_socket) as client:
        listed = await client.say("info usernet")
    assert f"{first.host}       10.0.2.15    80" in listed
    await hypervisor.set_forwards(machine.uid, [])
    assert listening(process.pid) == set()


async def test_a_forward_that_fails_restores_those_from_before(
    house: QemuHouse, hypervisor: QemuHypervisor, free_ports: list[int]
) -> None:
    mine, taken, more = free_ports[:3]
    await started(hypervisor, house.machine("holder", forwards=(Forward(taken, 22),)))
    machine = house.machine(forwards=(Forward(mine, 22),))
    process = await started(hypervisor, machine)
    with pytest.raises(MonitorError, match=f"127.0.0.1:{taken} could not be forwarded"):
        await hypervisor.set_forwards(machine.uid, [Forward(more, 80), Forward(taken, 80)])
    assert listening(process.pid) == {("127.0.0.1", mine)}
    with pytest.raises(MonitorError, match="stay as they are"):
        await hypervisor.set_forwards(machine.uid, [Forward(more, 80, "0.0.0.0,guestfwd=x")])
    assert listening(process.pid) == {("127.0.0.1", mine)}


# Disks


async def test_a_disk_that_was_removed_under_its_machine_is_said(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    disk = house.paths.instance(machine.uid).disk
    os.unlink(disk)
    await eventually(
        lambda: hypervisor.view(machine.uid).remark.startswith(f"its disk {disk} was removed; "),
        "it is said",
    )
    await hypervisor.stop(machine.uid, process, 0.0)
    with pytest.raises(Blocked, match="is missing"):
        await hypervisor.prepare(machine)
    with pytest.raises(StartFailed, match="No such file"):
        await hypervisor.spawn(machine)


async def test_a_start_that_succeeds_leaves_nothing_in_qemus_log(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine(cpus=2)
    process = await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, process, 0.0)
    assert house.paths.instance(machine.uid).qemu_log.read_text() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system")
async def test_a_full_disk_stops_the_guest_and_room_lets_it_go_on(tmp_path: Path) -> None:
    async with qemu_house() as house, mounted(house.paths.instances):
        hypervisor = house.agent()
        await hypervisor.open(Watched().on_change)
        machine = house.machine(guest="writer", disk=64 << 20)
        process = await started(hypervisor, machine)
        await eventually(
            lambda: hypervisor.view(machine.uid).state is RunState.IO_ERROR, "its disk is full"
        )
        assert "No space left" in hypervisor.view(machine.uid).detail
        assert run("mount", "-o", "remount,size=64m", house.paths.instances) == 0
        await hypervisor.resume(machine.uid)
        disk = house.paths.instance(machine.uid).disk
        await eventually(lambda: disk.stat().st_size > 16 << 20, "it writes on")
        async with within(20):
            await hypervisor.stop(machine.uid, process, 1.0)
        assert run("qemu-img", "check", "-q", "-f", "qcow2", disk) == 0
        await hypervisor.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system")
async def test_a_machine_that_does_not_fit_leaves_nothing_half_made() -> None:
    async with qemu_house() as house, mounted(house.paths.instances):
        hypervisor = house.agent()
        machine, filler = house.machine(), house.paths.instances / "filler"
        fill(filler)
        with pytest.raises(StartFailed, match=r"web could not be made: No space left"):
            await hypervisor.prepare(machine)
        assert [path for path in house.paths.instances.rglob("*") if path.is_file()] == [filler]
        assert hypervisor.kept() == []
        os.unlink(filler)
        await hypervisor.prepare(machine)
        assert len(hypervisor.kept()) == 1


def fill(path: Path) -> None:
    """Take what the file system has left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


@asynccontextmanager
async def mounted(directory: Path) -> AsyncIterator[None]:
    """An 8 MiB file system at `directory`."""
    os.mkdir(directory)
    assert run("mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", directory) == 0
    try:
        yield
    finally:
        await eventually(lambda: run("umount", directory) == 0, "it is unused")


# Many


async def test_twenty_start_and_end_at_once_without_holding_up_the_loop(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machines = [house.machine(f"web-{number}") for number in range(20)]
    processes = await asyncio.gather(*(started(hypervisor, machine) for machine in machines))
    assert {found.process for found in hypervisor.scan()} == set(processes)
    stops = (
        hypervisor.stop(one.uid, process, 0.0)
        for one, process in zip(machines, processes, strict=True)
    )
    await asyncio.gather(*stops)
    assert hypervisor.scan() == []
    await asyncio.gather(*(hypervisor.discard(machine.uid) for machine in machines))
    assert os.listdir(house.paths.instances) == os.listdir(house.paths.sockets) == []


async def test_no_descriptor_is_left_behind(house: QemuHouse, hypervisor: QemuHypervisor) -> None:
    machine = house.machine()
    counts = []
    for _ in range(3):
        process = await started(hypervisor, machine)
        await hypervisor.stop(machine.uid, process, 0.0)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[-1]


async def test_files_that_cannot_be_looked_at_are_told_and_the_machine_is_kept(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    process = await started(hypervisor, machine)
    mine = house.paths.instance(machine.uid)
    aside = mine.directory.with_name("aside")
    mine.directory.rename(aside)
    mine.directory.symlink_to("x" * 300)
    try:
        await eventually(
            lambda: "cannot be looked after" in hypervisor.view(machine.uid).remark, "it is said"
        )
        assert hypervisor.attached(machine.uid)
    finally:
        mine.directory.unlink()
        aside.rename(mine.directory)
    await eventually(lambda: hypervisor.view(machine.uid).detail == "", "all is well again")
    assert hypervisor.process_of(machine.uid) == process


def double_of(house: QemuHouse, uid: Uid) -> subprocess.Popen[bytes]:
    """A process with the words by which the machine is found."""
    words = ["-name", f"{mark(house.state_id)}web", "-uuid", uid]
    return subprocess.Popen(["sh", "-c", "sleep 60; :", *words], start_new_session=True)


async def test_who_only_bears_the_words_of_a_machine_is_not_its_process(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    """Sabotage: look for command lines though nobody holds the machine's lock. Each dead name then costs a walk."""
    machine = house.machine()
    process = await started(hypervisor, machine)
    await hypervisor.stop(machine.uid, process, 0.0)
    with double_of(house, machine.uid) as double:
        await eventually(lambda: hypervisor.scan() != [], "it is there to be found")
        assert hypervisor.process_of(machine.uid) is None
        os.killpg(double.pid, signal.SIGKILL)


def test_an_agent_may_have_as_many_files_open_as_its_user_may(still: Site) -> None:
    """Sabotage: leave the limit as it is. A shell's 1024 are used up by 250 VMs."""
    still.within = ["prlimit", "--nofile=256:1234", "--"]
    with still.agent() as agent:
        limits = Path(f"/proc/{agent.pid}/limits")
        still.until(
            lambda: re.search(r"open files +1234 +1234", limits.read_text()), "it may have more"
        )
