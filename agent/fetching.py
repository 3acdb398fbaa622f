"""Brings an image into the store, and records what came of it. Where there is no room, what nobody needs makes way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent import backoff
from agent.births import NO_DISK
from agent.doing import Doing
from agent.errors import Blocked, NoRoomForImage
from agent.hypervisor.api import Backend
from agent.intent import Clock, event
from agent.planned import Plan
from agent.stock import described, prune
from state.desired import Desired
from state.ledger import Ledger
from state.observed import BaseImage, HowFar, image_key
from state.spec.resolved import ImageSpec

LEAST_FREED = 1 << 30
"""Bytes that are to be had back where a fetch finds no room: each time it begins anew."""


Progress = Callable[[HowFar], None]


class Fetching:
    """The fetches of one agent."""

    def __init__(self, ledger: Ledger, backend: Backend, clock: Clock, doing: Doing) -> None:
        self._ledger = ledger
        self._backend = backend
        self._clock = clock
        self._doing = doing

    async def fetch(self, image: ImageSpec, pass_id: str, desired: Desired) -> None:
        """Bring one image into the store. `desired` says what else is needed there."""

        def progress(how_far: HowFar) -> None:
            self._doing.images[image] = str(how_far)

        # Several labels of one image fail together, which is one failure.
        before = self._ledger.retry(image_key(image))
        try:
            base = await self._fetched(image, progress, pass_id, desired)
        except Exception as error:  # noqa: BLE001 - whatever a source makes a library raise
            await self._ledger.free()
            now = self._clock()
            with self._ledger.transaction() as change:
                change.put_retry(backoff.failed(before, str(error), now))
                change.event(event(now, pass_id, "ImageUnavailable", str(error)))
            return
        await self._came(image, base, pass_id)

    async def bring(self, image: ImageSpec, progress: Progress, desired: Desired) -> BaseImage:
        """The same for somebody who waits for it. Raises ImageUnavailable, and puts no failure down: nobody else has to
        wait because a person was in a hurry."""
        base = await self._fetched(image, progress, "", desired)
        await self._came(image, base, "")
        return base

    async def _came(self, image: ImageSpec, base: BaseImage, pass_id: str) -> None:
        await self._ledger.free()
        now = self._clock()
        with self._ledger.transaction() as change:
            change.remove_retry(image_key(image))
            said = f"image {image.label} is in the store as {base.digest[:19]}"
            change.event(event(now, pass_id, "ImageFetched", said))

    async def _fetched(
        self, image: ImageSpec, progress: Progress, pass_id: str, desired: Desired
    ) -> BaseImage:
        removed: set[Path] = set()
        while True:
            try:
                return await self._backend.images.fetch(image, progress)
            except NoRoomForImage as error:
                what = f"image {image.label}"
                taken = await self._made_room(what, error.short, pass_id, desired)
                # What goes a second time is what the fetch itself leaves behind: no room is made by that.
                if not taken - removed:
                    raise
                removed |= taken

    async def make_way(self, decided: Plan, short: int, pass_id: str, desired: Desired) -> bool:
        """Where something new waits for `short` bytes of the disk, have images make way that nobody needs; whether any
        did."""
        waiting = [one.name for one in decided.steps if getattr(one, "reason", "") == NO_DISK]
        return bool(waiting) and bool(await self._made_room(waiting[0], short, pass_id, desired))

    async def _made_room(self, what: str, short: int, pass_id: str, desired: Desired) -> set[Path]:
        """The images that have made way."""
        if desired.unproven is not None:
            return set()  # who needs what cannot be told
        try:
            taken = await prune(self._ledger, self._backend, desired, max(short, LEAST_FREED))
        except Blocked:
            return set()
        await self._ledger.free()
        now = self._clock()
        with self._ledger.transaction() as change:
            for one in taken:
                said = f"{described(one)} made room for {what}"
                change.event(event(now, pass_id, "ImageRemoved", said))
        return {one.base.path for one in taken}
