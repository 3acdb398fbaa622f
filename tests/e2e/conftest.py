"""Real QEMU for the tests of this directory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.hypervisor.qemu.driver import QemuHypervisor
from tests.contract.houses import QemuHouse, Watched, qemu_house


@pytest.fixture
async def house() -> AsyncIterator[QemuHouse]:
    async with qemu_house() as made:
        yield made


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
async def hypervisor(house: QemuHouse, watched: Watched) -> AsyncIterator[QemuHypervisor]:
    first = house.agent()
    await first.open(watched.on_change)
    yield first
    await first.close()
