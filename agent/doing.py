"""What is under way in this agent, for whoever plans beside it and whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.steps import Attempt, Create, Replace, Step
from state.ids import Name
from state.observed import Given
from state.spec.resolved import ImageSpec


@dataclass
class Doing:
    """What is under way in this agent: for each busy name and each image on its way, a sentence part; and what the
    steps of busy names were given, so that no other is given the same before it is recorded."""

    names: dict[Name, str] = field(default_factory=dict)
    images: dict[ImageSpec, str] = field(default_factory=dict)
    given: dict[Name, Given] = field(default_factory=dict)

    def begin(self, step: Step) -> None:
        """Its name is busy from now on, with what it was given."""
        self.names[step.name] = f"{step.action}: {step.because}"
        if isinstance(step, Create | Replace | Attempt):
            birth = step.birth
            attempt = (step.run, step.spec) if isinstance(step, Attempt) else None
            self.given[step.name] = Given(birth.forwards, birth.ssh_port, birth.run_as, attempt)

    def end(self, step: Step) -> None:
        """Its name is free again."""
        self.names.pop(step.name, None)
        self.given.pop(step.name, None)
