"""What need not be decided anew: the step of a vm that was at rest in the last pass and of which nothing has changed
since, and the plan of a world in which that is so of all. Pure: what is remembered is what would be decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from agent.steps import Keep, Plan, Step
from agent.turn import Turn
from state.desired import Desired
from state.ids import Name
from state.observed import Observed, Seen

_AT_REST = frozenset({"Ready", "Running", "Paused"})
"""Reasons that follow from the document, the instance, its process and its image alone: neither from the time, nor from
other names, nor from what failed before."""


@dataclass(frozen=True)
class Decided:
    """What a pass has decided, and from what; the policy stays the same."""

    desired: Desired
    observed: Observed
    plan: Plan

    @cached_property
    def at_rest(self) -> dict[Name, Step]:
        """The steps that hold as long as their vm, its machine and its image stay as they are."""
        return {step.name: step for step in self.plan.steps if _is_at_rest(step)}

    def rests(self, desired: Desired, instances: tuple[Seen, ...]) -> bool:
        """Whether there was nothing but vms at rest, one instance each, and all of them are as they were."""
        return (
            desired is self.desired
            and len(self.at_rest) == len(self.plan.steps) == len(instances)
            and instances == self.observed.instances
        )

    def holds(self, desired: Desired, observed: Observed) -> bool:
        """Whether the whole plan is still what is to be done."""
        before = self.observed
        return (
            not observed.busy
            and observed.names == before.names
            and observed.runs == before.runs
            and self.has_images(desired, observed)
            and self.rests(desired, observed.instances)
        )

    def has_images(self, desired: Desired, observed: Observed) -> bool:
        """Whether every image that somebody wants is there, and is the one of then."""
        images = observed.images
        return images == self.observed.images and desired.needed_images <= images.keys()


def _is_at_rest(step: Step) -> bool:
    return isinstance(step, Keep) and step.kind == "vm" and step.reason in _AT_REST


class Unmoved:
    """The vms of one pass that were at rest, and of which nothing has changed."""

    def __init__(self, turn: Turn, before: Decided | None) -> None:
        self._vms, self._seen = turn.desired.vms, turn.vms
        self._steps: dict[Name, Step] = {}
        if before is not None and before.has_images(turn.desired, turn.observed):
            self._steps = before.at_rest
            self._vms_before = before.desired.vms
            self._seen_before = before.observed.by_name("vm")

    def step(self, name: Name) -> Step | None:
        """The step of such a vm, if nothing holds it and nobody works on it."""
        step = self._steps.get(name)
        if step is None or self._vms.get(name) is not self._vms_before.get(name):
            return None
        return step if self._seen.get(name) == self._seen_before.get(name) else None
