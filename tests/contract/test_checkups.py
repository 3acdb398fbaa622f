"""What every checkup promises: only the guest itself makes it succeed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import pytest
import pytest_asyncio

from agent.errors import NotReady
from agent.guest.checkups import GuestCheckups
from agent.hypervisor.api import Backend, Checkups, Hypervisor, Machine
from agent.hypervisor.memory import MemoryHost
from state.observed import Ways
from state.spec.resolved import Forward, HealthSpec
from tests.contract.houses import MemoryHouse, Watched, qemu_house
from tests.e2e.steps import started
from tests.e2e.tinyguest import Guest, tiny

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

TCP = HealthSpec("tcp", 10.0, 20.0, 3, 120.0, port=80)
HTTP = replace(TCP, check="http", path="/ok")
PATIENCE = 60.0


class Ward(Protocol):
    """One running guest with a service on port 80, which a test turns on and off."""

    machine: Machine
    hypervisor: Hypervisor
    checkups: Checkups

    async def serve(self, status: int = 200) -> None:
        """Let the service run; a GET of /ok is answered with this status."""

    async def refuse(self) -> None:
        """Let nobody listen on the port."""


class MemoryWard:
    """A guest in memory."""

    def __init__(self, host: MemoryHost, machine: Machine, backend: Backend) -> None:
        self.machine, self._host = machine, host
        self.hypervisor, self.checkups = backend.hypervisor, backend.checkups

    async def serve(self, status: int = 200) -> None:
        guest = self._host.guests[self.machine.uid]
        guest.deaf.discard(80)
        guest.statuses[80] = status

    async def refuse(self) -> None:
        self._host.guests[self.machine.uid].deaf.add(80)


class TinyWard:
    """A tiny guest with busybox's httpd."""

    def __init__(self, guest: Guest, hypervisor: Hypervisor, checkups: Checkups) -> None:
        self.machine, self.hypervisor, self.checkups = guest.machine, hypervisor, checkups
        self._guest = guest

    async def serve(self, status: int = 200) -> None:
        await self.refuse()
        made = "touch /www/ok" if status == 200 else "rm -f /www/ok"
        told = await self._guest.run(f"mkdir -p /www && {made} && httpd -p 80 -h /www")
        assert told == (0, "")

    async def refuse(self) -> None:
        await self._guest.run("killall httpd; while pidof httpd; do sleep 0.1; done")


@asynccontextmanager
async def memory_ward() -> AsyncIterator[Ward]:
    house = MemoryHouse()
    backend = house.host.backend()
    machine = house.machine(forwards=(Forward(22000, 22), Forward(8080, 80)))
    await backend.hypervisor.open(Watched().on_change)
    await backend.hypervisor.prepare(machine)
    await backend.hypervisor.spawn(machine)
    await backend.hypervisor.resume(machine.uid)
    yield MemoryWard(house.host, machine, backend)
    await backend.hypervisor.close()


@asynccontextmanager
async def tiny_ward() -> AsyncIterator[Ward]:
    async with qemu_house() as house:
        hypervisor = house.agent()
        await hypervisor.open(Watched().on_change)
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            ssh, http = one.getsockname()[1], two.getsockname()[1]
        machine = replace(tiny(house, ssh), forwards=(Forward(ssh, 22), Forward(http, 80)))
        await started(hypervisor, machine)
        guest = Guest(house, machine, ssh)
        await guest.ready()
        checkups = GuestCheckups(house.paths, hypervisor.accepted)
        yield TinyWard(guest, hypervisor, checkups)
        checkups.forget(machine.uid)
        await hypervisor.close()


WARDS = {"memory": memory_ward, "tiny": tiny_ward}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=[pytest.mark.guest] * (name == "tiny")) for name in WARDS],
)
async def ward(request: pytest.FixtureRequest) -> AsyncIterator[Ward]:
    async with WARDS[request.param]() as made:
        yield made


def ways(ward: Ward, *, forwarded: bool = True) -> Ways:
    forwards = ward.machine.forwards if forwarded else ward.machine.forwards[:1]
    return Ways(forwards, ward.machine.forwards[0].host, "root")


async def passes(ward: Ward, health: HealthSpec, *, forwarded: bool = True) -> None:
    to = ways(ward, forwarded=forwarded)
    async with asyncio.timeout(PATIENCE):
        await ward.checkups.check(ward.machine.uid, ward.machine.name, to, health)


async def fails(ward: Ward, health: HealthSpec, *, forwarded: bool = True) -> str:
    with pytest.raises(NotReady) as caught:
        await passes(ward, health, forwarded=forwarded)
    return caught.value.message


@pytest.mark.parametrize("forwarded", [True, False])
async def test_a_port_is_well_while_something_listens_there(ward: Ward, forwarded: bool) -> None:
    await ward.serve()
    await passes(ward, TCP, forwarded=forwarded)
    await passes(ward, TCP, forwarded=forwarded)
    await ward.refuse()
    assert await fails(ward, TCP, forwarded=forwarded)
    await ward.serve()
    await passes(ward, TCP, forwarded=forwarded)


@pytest.mark.parametrize("forwarded", [True, False])
async def test_a_request_is_well_by_the_status_of_its_answer(ward: Ward, forwarded: bool) -> None:
    await ward.serve()
    await passes(ward, HTTP, forwarded=forwarded)
    await ward.serve(status=404)
    said = await fails(ward, HTTP, forwarded=forwarded)
    assert said == "GET /ok was answered with 404, not 200"
    await passes(ward, replace(HTTP, status=404), forwarded=forwarded)
    await ward.refuse()
    assert await fails(ward, HTTP, forwarded=forwarded)


@pytest.mark.parametrize("health", [TCP, HTTP])
async def test_a_guest_that_hangs_is_not_well_though_its_forward_accepts(
    ward: Ward, health: HealthSpec
) -> None:
    await ward.serve()
    await ward.hypervisor.pause(ward.machine.uid)
    try:
        with pytest.raises((TimeoutError, NotReady)):
            async with asyncio.timeout(1.0):
                await passes(ward, health)
    finally:
        await ward.hypervisor.resume(ward.machine.uid)
    await passes(ward, health)


async def test_several_who_ask_at_once_are_all_answered(ward: Ward) -> None:
    """No more than the server of the guest lets wait: busybox has nine wait, and TCP drops the others for long. Whoever
    was dropped asks again, as `failures` lets a check do."""
    await ward.serve()

    async def asked(health: HealthSpec) -> None:
        for left in reversed(range(health.failures)):
            try:
                async with asyncio.timeout(health.timeout):
                    return await passes(ward, health)
            except TimeoutError:
                if not left:
                    raise

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asked(TCP))
            group.create_task(asked(HTTP))
