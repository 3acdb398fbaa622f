"""A store of images that counts the bytes which come into it, from what its fetches tell of themselves anyhow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agent.hypervisor.api import Images
from state.observed import BaseImage, HowFar, StoredImage, image_key
from state.spec.resolved import ImageSpec


class CountedImages:
    """The same store. `count` is told of bytes as they come: each once, however many wait for them."""

    def __init__(self, images: Images, count: Callable[[int], None]) -> None:
        self._images, self._count = images, count
        self._waiting: dict[str, int] = {}
        self._come: dict[str, int] = {}

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        return await self._images.look(images)

    async def fetch(self, image: ImageSpec, progress: Callable[[HowFar], None]) -> BaseImage:
        key = image_key(image)

        def counted(how_far: HowFar) -> None:
            # One that begins anew, from another place, counts from 0.
            before = self._come.get(key, 0)
            self._count(how_far.got - (before if how_far.got >= before else 0))
            self._come[key] = how_far.got
            progress(how_far)

        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            return await self._images.fetch(image, counted)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                self._come.pop(key, None)

    async def stored(self) -> Sequence[StoredImage]:
        return await self._images.stored()

    async def remove(self, image: StoredImage) -> None:
        await self._images.remove(image)
