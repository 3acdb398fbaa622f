"""Brings an image into the store, and records what came of it. Where there is no room, what nobody needs makes way."""

from __future__ import annotations

from collections.abc import Callable

from agent import backoff
from agent.doing import Doing
from agent.errors import Blocked, NoRoomForImage
from agent.hypervisor.api import Backend
from agent.intent import Clock, event
from agent.stock import described, prune
from state.desired import Desired
from state.ledger import Ledger
from state.observed import BaseImage, image_key
from state.spec.resolved import ImageSpec

LEAST_FREED = 1 << 30
"""Bytes that are to be had back where a fetch finds no room: each time it begins anew."""


class Fetching:
    """The fetches of one agent."""

    def __init__(self, ledger: Ledger, backend: Backend, clock: Clock, doing: Doing) -> None:
        self._ledger = ledger
        self._backend = backend
        self._clock = clock
        self._doing = doing

    async def fetch(self, image: ImageSpec, pass_id: str, desired: Desired) -> None:
        """Bring one image into the store. `desired` says what else is needed there."""

        def progress(how_far: str) -> None:
            self._doing.images[image] = how_far

        key = image_key(image)
        # Several labels of one image fail together, which is one failure.
        before = self._ledger.retry(key)
        try:
            base = await self._fetched(image, progress, pass_id, desired)
        except Exception as error:  # noqa: BLE001 - whatever a source makes a library raise
            await self._ledger.free()
            now = self._clock()
            with self._ledger.transaction() as change:
                change.put_retry(backoff.failed(before, str(error), now))
                change.event(event(now, pass_id, "ImageUnavailable", str(error)))
            return
        await self._ledger.free()
        now = self._clock()
        with self._ledger.transaction() as change:
            change.remove_retry(key)
            said = f"image {image.label} is in the store as {base.digest[:19]}"
            change.event(event(now, pass_id, "ImageFetched", said))

    async def _fetched(
        self, image: ImageSpec, progress: Callable[[str], None], pass_id: str, desired: Desired
    ) -> BaseImage:
        while True:
            try:
                return await self._backend.images.fetch(image, progress)
            except NoRoomForImage as error:
                # Who needs what cannot be told while absence is not proven.
                if desired.unproven is not None or not await self._made_room(
                    image, error.short, pass_id, desired
                ):
                    raise

    async def _made_room(
        self, image: ImageSpec, short: int, pass_id: str, desired: Desired
    ) -> bool:
        try:
            taken = await prune(self._ledger, self._backend, desired, max(short, LEAST_FREED))
        except Blocked:
            return False
        await self._ledger.free()
        now = self._clock()
        with self._ledger.transaction() as change:
            for one in taken:
                said = f"{described(one)} made room for image {image.label}"
                change.event(event(now, pass_id, "ImageRemoved", said))
        return bool(taken)
