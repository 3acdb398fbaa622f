"""Gives every test of the contract each house in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.hypervisor.api import Hypervisor
from tests.contract.houses import HOUSES, House, Watched


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.qemu] * (name == "qemu")) for name in HOUSES]
)
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with HOUSES[request.param]() as made:
        yield made


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
async def hypervisor(house: House, watched: Watched) -> AsyncIterator[Hypervisor]:
    """The house's first agent, open."""
    first = house.agent()
    await first.open(watched.on_change)
    yield first
    await first.close()
