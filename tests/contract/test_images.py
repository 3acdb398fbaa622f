"""What every store of images promises, tried through the seam alone: the one on disk, and the one in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.guest.image import ImageStore
from agent.hypervisor.api import Images
from agent.hypervisor.memory import MemoryHost
from state.observed import HowFar
from state.spec.resolved import ImageSpec
from tests.builders import IMAGE


@pytest.fixture(params=["disk", "memory"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Images:
    if request.param == "memory":
        return MemoryHost(delays={"fetch": 0.01}).backend().images
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images")


@pytest.fixture
def image(tmp_path: Path) -> ImageSpec:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"x" * (3 << 20))
    return replace(IMAGE, source=source.as_uri(), digest=None, format="raw")


def ignore(_: HowFar) -> None:
    """What is told on the way."""


async def test_what_was_fetched_is_there_under_every_label(
    images: Images, image: ImageSpec
) -> None:
    other, missing = replace(image, label="b", ssh_user="else"), replace(image, source="file:///no")
    assert await images.look([image, other]) == {}
    base = await images.fetch(image, ignore)
    assert await images.look([image, other, missing]) == {image: base, other: base}
    assert await images.look([]) == {}


async def test_who_asks_for_what_is_on_its_way_waits_for_it(
    images: Images, image: ImageSpec
) -> None:
    said: list[list[HowFar]] = [[], []]
    asked = [images.fetch(replace(image, label=str(n)), said[n].append) for n in range(2)]
    one, two = await asyncio.gather(*asked)
    assert one == two
    assert all(said)


async def test_who_leaves_does_not_end_it_for_the_others(images: Images, image: ImageSpec) -> None:
    async with asyncio.TaskGroup() as group:
        begun = asyncio.Event()
        first = group.create_task(images.fetch(image, lambda _: begun.set()))
        await begun.wait()
        second = group.create_task(images.fetch(image, ignore))
        first.cancel()
        base = await second
    assert await images.look([image]) == {image: base}


async def test_what_is_taken_out_is_gone_until_it_is_fetched_again(
    images: Images, image: ImageSpec
) -> None:
    assert await images.stored() == []
    base = await images.fetch(image, ignore)
    [stored] = await images.stored()
    assert stored.base == base
    assert stored.size > 0
    for _ in range(2):
        await images.remove(stored)
        assert await images.stored() == []
        assert await images.look([image]) == {}
    assert await images.fetch(image, ignore) == base
    assert await images.look([image]) == {image: base}
