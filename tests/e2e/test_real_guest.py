"""A real Linux guest through the hypervisor's seam: it lets us in, obeys, reboots, panics, and reaches what it may."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.hypervisor.api import RunState
from agent.hypervisor.qemu.driver import QemuHypervisor
from state.ids import Process
from tests.contract.houses import QemuHouse
from tests.e2e.confinement import assert_confined
from tests.e2e.steps import run, started
from tests.e2e.tinyguest import Guest, tiny
from tests.waiting import eventually

pytestmark = [pytest.mark.guest, pytest.mark.timeout(180)]


@pytest.fixture
async def guest(
    request: pytest.FixtureRequest,
    house: QemuHouse,
    hypervisor: QemuHypervisor,
    free_ports: list[int],
) -> Guest:
    machine = tiny(house, free_ports[0], egress=getattr(request, "param", True))
    process = await started(hypervisor, machine)
    made = Guest(house, machine, free_ports[0])
    await made.ready()
    assert_confined(process.pid, run_as=machine.run_as)
    return made


def process_of(hypervisor: QemuHypervisor) -> Process:
    (found,) = hypervisor.scan()
    return found.process


async def test_it_reaches_its_host_sees_its_disk_grow_and_keeps_it_when_it_is_told_to_end(
    house: QemuHouse, hypervisor: QemuHypervisor, guest: Guest
) -> None:
    """That it reaches the host's loopback where no fence stands is nothing that holdfast would choose: QEMU's user
    network has no way to refuse it, and what is written on security says so. When this fails, that is to be changed."""
    uid, process = guest.machine.uid, process_of(hypervisor)
    with canary() as heard:
        await guest.run(f"echo hello | timeout 3 nc 10.0.2.2 {heard.getsockname()[1]}")
        assert knocked(heard)
    await hypervisor.grow(uid, 3 << 30)
    assert await guest.run("cat /sys/block/vda/size") == (0, f"{(3 << 30) // 512}\n")
    assert (await guest.run("echo kept > /persist/word && hostname")) == (0, "web\n")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await hypervisor.stop(uid, process, 30.0)
    assert loop.time() - begun < 20
    assert run("qemu-img", "check", "-q", "-f", "qcow2", house.paths.instance(uid).disk) == 0
    await started(hypervisor, guest.machine)
    await guest.ready()
    assert await guest.run("cat /persist/word") == (0, "kept\n")
    process = process_of(hypervisor)
    await guest.tell("poweroff -f")
    await eventually(lambda: hypervisor.view(uid).state is RunState.OFF, "it is off")
    assert hypervisor.alive(uid, process)


async def test_a_reboot_is_no_exit_and_a_panic_is_no_reboot(
    hypervisor: QemuHypervisor, guest: Guest
) -> None:
    uid, process = guest.machine.uid, process_of(hypervisor)
    await guest.tell("reboot -f")
    await eventually(lambda: hypervisor.view(uid).resets == 1, "its reset is counted")
    await guest.ready()
    assert hypervisor.alive(uid, process)
    assert hypervisor.view(uid).state is RunState.RUNNING
    await guest.tell("echo c > /proc/sysrq-trigger")
    await eventually(lambda: hypervisor.view(uid).state is RunState.PANICKED, "its panic is known")
    assert hypervisor.view(uid).resets == 1
    assert hypervisor.alive(uid, process)


@pytest.mark.parametrize("guest", [False], indirect=True)
async def test_without_egress_it_reaches_nothing_and_is_reached(guest: Guest) -> None:
    with canary() as heard:
        await guest.run(f"echo hello | timeout 3 nc 10.0.2.2 {heard.getsockname()[1]}")
        assert not knocked(heard)


@contextmanager
def canary() -> Iterator[socket.socket]:
    """A listener on the host's loopback that no guest should find."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


def knocked(listener: socket.socket) -> bool:
    """Whether anybody connected."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True
