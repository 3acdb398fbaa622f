"""What the tests on real QEMU do again and again."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.hypervisor.api import Exit, Hypervisor, Machine
from agent.hypervisor.qemu.driver import QemuHypervisor
from state.ids import Process
from tests.contract.houses import QemuHouse, Watched
from tests.waiting import eventually


async def started(hypervisor: Hypervisor, machine: Machine) -> Process:
    """The machine from nothing to running."""
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    await hypervisor.resume(machine.uid)
    return process


async def told(hypervisor: QemuHypervisor, machine: Machine) -> Exit:
    """How its process ended, once that is known."""
    await eventually(lambda: hypervisor.exit_of(machine.uid), "its end was told")
    exit_ = hypervisor.exit_of(machine.uid)
    assert exit_ is not None
    return exit_


@asynccontextmanager
async def another(house: QemuHouse) -> AsyncIterator[QemuHypervisor]:
    """A second agent on the same host."""
    agent = house.agent()
    await agent.open(Watched().on_change)
    try:
        yield agent
    finally:
        await agent.close()


def within(seconds: float) -> asyncio.Timeout:
    """A deadline for what should take no time."""
    return asyncio.timeout(seconds)


def run(*words: object) -> int:
    """The exit status of a program that takes no time."""
    return subprocess.run([str(word) for word in words], check=False).returncode
