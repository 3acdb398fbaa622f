"""Sites on the two guests, and bare hypervisors on real QEMU."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agent.hypervisor.qemu.driver import QemuHypervisor
from tests.contract.houses import QemuHouse, Watched, qemu_house
from tests.e2e.site import Site, image_path, site, still_site


@pytest.fixture
def tiny() -> Iterator[Site]:
    """A site whose default image is the tiny guest."""
    with site(image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"), "tiny") as made:
        yield made


@pytest.fixture
def still() -> Iterator[Site]:
    """A site whose machines have no guest to wait for."""
    with still_site() as made:
        yield made


@pytest.fixture
def debian() -> Iterator[Site]:
    """A site whose default image is Debian with the real cloud-init."""
    with site(image_path("HOLDFAST_DEBIAN_IMAGE", "debian.qcow2"), "debian") as made:
        yield made


@pytest.fixture
async def house() -> AsyncIterator[QemuHouse]:
    """A state directory with QEMUs of boot sectors."""
    async with qemu_house() as made:
        yield made


@pytest.fixture
def watched() -> Watched:
    """What a hypervisor says."""
    return Watched()


@pytest.fixture
async def hypervisor(house: QemuHouse, watched: Watched) -> AsyncIterator[QemuHypervisor]:
    """The first agent's."""
    first = house.agent()
    await first.open(watched.on_change)
    yield first
    await first.close()
