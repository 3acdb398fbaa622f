"""What is under way in this agent, for whoever plans beside it and whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from state.ids import Name
from state.spec.resolved import ImageSpec


@dataclass
class Doing:
    """What is under way in this agent: for each busy name and each image on its way, a sentence part."""

    names: dict[Name, str] = field(default_factory=dict)
    images: dict[ImageSpec, str] = field(default_factory=dict)
