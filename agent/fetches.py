"""Which images have to be brought into the store in one pass, and who waits for one. Pure."""

from __future__ import annotations

from agent import backoff
from agent.steps import Wait
from state.clock import Moment
from state.desired import WantedVm
from state.observed import Observed, Retry, image_key
from state.spec.resolved import ImageSpec

HOW_FAR_EVERY = 1.0
"""Seconds from one look at how far an image is to the next."""


class Fetches:
    """The images that one pass asks for, each once however many vms want it."""

    def __init__(self, observed: Observed, now: Moment) -> None:
        self._observed = observed
        self._now = now
        self._asked: dict[ImageSpec, None] = {}

    @property
    def asked(self) -> tuple[ImageSpec, ...]:
        """In the order they were asked for."""
        return tuple(self._asked)

    def missing(self, image: ImageSpec) -> ImageSpec | None:
        """The image, if it is not in the store."""
        return None if image in self._observed.images else image

    def ask_for(self, image: ImageSpec) -> Retry | None:
        """Have the image fetched, unless it is on its way; if it was asked for in vain just now, that."""
        if image in self._observed.fetching:
            return None
        retry = self._observed.retries.get(image_key(image))
        if retry is not None and backoff.remaining(retry, self._now) > 0:
            return retry
        self._asked[image] = None
        return None

    def wait(self, wanted: WantedVm) -> Wait | None:
        """The wait for an image that is on its way or cannot be had just now. None when the image is there, and when
        this pass asks for it."""
        image = wanted.spec.image
        if self.missing(image) is None:
            return None
        if (how_far := self._observed.fetching.get(image)) is not None:
            return Wait(
                name=wanted.spec.name,
                because=f"image {image.label} is on its way: {how_far}",
                reason="FetchingImage",
                source=wanted.source,
                until=HOW_FAR_EVERY,
            )
        if (retry := self.ask_for(image)) is not None:
            return Wait(
                name=wanted.spec.name,
                because=f"{retry.error}; {backoff.tried(retry)} so far",
                reason="ImageUnavailable",
                source=wanted.source,
                until=backoff.remaining(retry, self._now),
            )
        return None
