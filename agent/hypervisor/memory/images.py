"""The image store of a host in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from agent.errors import ImageUnavailable
from agent.guest.flights import Flights, Progress
from agent.hypervisor.api import BaseImage, HowFar
from agent.hypervisor.memory.world import MemoryWorld
from state.ids import Digest
from state.observed import StoredImage, image_key
from state.spec.resolved import ImageSpec

_DEFAULT_VIRTUAL_SIZE = 2 << 30


class MemoryImages:
    """Images that are fetched by saying so. An image's digest is the pinned one, or the one that the host was told its
    source holds, or one made from the source's name."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host
        self._flights = Flights()

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        stored = self._host.images
        return {
            image: found
            for image in images
            if (found := stored.get(image_key(image))) and found.digest == self._digest(image)
        }

    async def fetch(self, image: ImageSpec, progress: Progress) -> BaseImage:
        return await self._flights.join(image_key(image), partial(self._bring, image), progress)

    async def _bring(self, image: ImageSpec, progress: Progress) -> BaseImage:
        progress(HowFar(0, 1))
        await self._host.act("fetch")
        if image.digest is not None and self._digest(image) != image.digest:
            raise ImageUnavailable(
                f"fetching {image.source}: its digest is {self._digest(image)}, not {image.digest}"
            )
        digest = self._digest(image)
        base = BaseImage(
            Path("/memory") / digest.replace(":", "-"), image.format, _DEFAULT_VIRTUAL_SIZE, digest
        )
        self._host.images[image_key(image)] = base
        return base

    async def stored(self) -> Sequence[StoredImage]:
        bases = dict.fromkeys(self._host.images.values())
        return [StoredImage(base, "", base.virtual_size, 0.0, 0.0) for base in bases]

    async def remove(self, image: StoredImage) -> None:
        images = self._host.images
        found = [key for key, base in images.items() if base == image.base]
        for key in found:
            del images[key]
        if found and self._host.free_disk is not None:
            self._host.free_disk += image.size

    def _digest(self, image: ImageSpec) -> Digest:
        if (told := self._host.contents.get(image.source)) is not None:
            return told
        made = hashlib.sha256(image.source.encode()).hexdigest()
        return image.digest or Digest(f"sha256:{made}")
