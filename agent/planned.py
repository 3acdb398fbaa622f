"""A whole plan: the steps of one pass, in the order for reading, with the id that a person approves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from agent.steps import Step, Wait
from state.ids import Uid
from state.spec.resolved import ImageSpec

ORDER = (
    "destroy",
    "replace",
    "restart",
    "update",
    "adopt",
    "create",
    "run",
    "hold",
    "wait",
    "keep",
)
"""How a plan is shown: what loses most comes first."""
ACTING = ORDER[: ORDER.index("hold")]
"""The actions of steps that change something."""


@dataclass(frozen=True, slots=True)
class Fence:
    """VMs whose destruction waits for a person: `id` names just this, `uids` are theirs."""

    id: str
    uids: frozenset[Uid]


_FOR_NO_OTHER = frozenset(
    {
        "InProgress",
        "Unresponsive",
        "Unknown",
        "IOError",
        "ApprovalNeeded",
        "FetchingImage",
        "ImageUnavailable",
        "NotEnoughMemory",
    }
)
"""Reasons of waits that no other name's step ends."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do in one pass, and why every other name is left alone.

    `fetches` are the images that have to be brought first; `fence` is what waits for a person's approval.
    """

    steps: tuple[Step, ...]
    fetches: tuple[ImageSpec, ...] = ()
    fence: Fence | None = None

    @property
    def acting(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.acts)

    @property
    def awaits(self) -> bool:
        """Whether a name waits for something that may come of what is done for others: not for a time, a person, a
        download, or its own machine."""
        waits = (step for step in self.steps if isinstance(step, Wait))
        return any(step.until is None and step.reason not in _FOR_NO_OTHER for step in waits)

    @property
    def id(self) -> str:
        """Twelve hex digits that are the same for plans that do the same, or that wait for the same approval."""
        if self.fence is not None:
            return self.fence.id
        said = [[step.action, step.name, step.because, list(step.fields)] for step in self.acting]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]

    def shown(self) -> tuple[Step, ...]:
        """The steps in the order for reading."""
        return tuple(sorted(self.steps, key=lambda step: (ORDER.index(step.action), step.name)))
