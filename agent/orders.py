"""Images that a person wants in the store now: which those are, and what came of each. It does not know how it was
asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.errors import BadInput, Blocked
from agent.fetching import Fetching
from agent.hypervisor.api import Images
from state.desired import Desired
from state.ids import Digest
from state.observed import HowFar
from state.records import LedgerUnreadable
from state.spec.resolved import ImageSpec
from state.spec.words import did_you_mean, quoted

Tell = Callable[[str, HowFar], None]
"""Told of a label how far its image is."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of one image: its digest, or why it could not be had. `fetched` False: it was there."""

    label: str
    digest: Digest | None
    fetched: bool = False
    error: str | None = None


def ordered(desired: Desired, words: Sequence[str]) -> list[ImageSpec]:
    """The images that labels and aliases lead to, all that there are for no words. Raises BadInput for a word that
    leads to none, Blocked where nothing could be read."""
    if not desired.images:
        why = desired.source.error or "no image map has any"
        raise Blocked(
            f"fetching images: {why}", hint="images stand in a document of `kind: images`"
        )
    for word in words:
        if desired.labels.get(word) not in desired.images:
            hint = did_you_mean(word, desired.labels) or " (`holdfast plan` says what is wrong)"
            raise BadInput(f"fetching images: no usable image is called {quoted(word)}{hint}")
    labels = [desired.labels[word] for word in words] if words else sorted(desired.images)
    return [desired.images[label] for label in dict.fromkeys(labels)]


async def bring(
    images: Sequence[ImageSpec], fetching: Fetching, store: Images, desired: Desired, tell: Tell
) -> list[Brought]:
    """Have them in the store, beside each other; what came of each, in their order."""
    there = await store.look(images)

    async def one(image: ImageSpec) -> Brought:
        if (base := there.get(image)) is not None:
            return Brought(image.label, base.digest)
        try:
            base = await fetching.bring(image, lambda far: tell(image.label, far), desired)
        except LedgerUnreadable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a source makes a library raise
            return Brought(image.label, None, error=str(error) or type(error).__name__)
        return Brought(image.label, base.digest, fetched=True)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(image)) for image in images]
    return [task.result() for task in tasks]
