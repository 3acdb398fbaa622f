"""Looking: what images are there, beside what is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

from agent.doing import Doing
from agent.hypervisor.api import BaseImage
from agent.hypervisor.memory import MemoryHost, MemoryImages
from agent.observe import NoRecords, observe
from state.observed import Instance
from state.spec.resolved import ImageSpec
from tests.builders import BASE, IMAGE, desired, instance, vm


class SlowImages(MemoryImages):
    """Looks first and answers later, as a store does that waits for a file system."""

    def __init__(self, host: MemoryHost) -> None:
        super().__init__(host)
        self.asked: list[Collection[ImageSpec]] = []
        self.answers = asyncio.Event()

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        found = await super().look(images)
        self.asked.append(images)
        await self.answers.wait()
        return found


async def test_an_image_that_arrives_during_the_look_is_still_on_its_way() -> None:
    """Sabotage: ask what is on its way after the look. The next plan then fetches the image once more."""
    host = MemoryHost()
    images = SlowImages(host)
    backend = replace(host.backend(), images=images)
    doing = Doing(images={IMAGE: "99%"})
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(observe(NoRecords(), backend, desired(vm()), doing))
        await asyncio.sleep(0)
        assert images.asked
        await images.fetch(IMAGE, lambda _: None)
        del doing.images[IMAGE]
        images.answers.set()
    assert looking.result().images == {}
    assert looking.result().fetching == {IMAGE: "99%"}


class OneHeld(NoRecords):
    """A name that never came to run, whose document cannot be read."""

    def instances(self) -> list[Instance]:
        return [instance(vm("held", image=replace(IMAGE, label="other", source="file:///other")))]


async def test_the_image_of_a_held_name_that_never_ran_is_looked_for_too() -> None:
    host = MemoryHost()
    images = SlowImages(host)
    images.answers.set()
    other = replace(IMAGE, label="other", source="file:///other")
    for image in (IMAGE, other):
        await images.fetch(image, lambda _: None)
    backend = replace(host.backend(), images=images)
    observed = await observe(OneHeld(), backend, desired(vm()), Doing())
    assert set(observed.images) == {IMAGE, other}
    assert observed.images[IMAGE].digest == BASE.digest
    assert images.asked == [{IMAGE}, {other}], "each is looked for once"
