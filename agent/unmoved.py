"""What need not be decided anew: the step of a vm that was at rest in the last pass and of which nothing has changed
since, and the plan of a world in which that is so of all. Pure: what is remembered is what would be decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from agent.planned import Plan
from agent.steps import Keep, Step
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
            # Where an image is missing, whoever wants it asks for it in every pass.
            and observed.images == before.images
            and desired.needed_images <= observed.images.keys()
            and self.rests(desired, observed.instances)
        )


def _is_at_rest(step: Step) -> bool:
    return isinstance(step, Keep) and step.kind == "vm" and step.reason in _AT_REST


class Unmoved:
    """The vms of one pass that were at rest, and of which nothing has changed."""

    def __init__(self, turn: Turn, before: Decided | None) -> None:
        self._turn, self._before = turn, before

    def step(self, name: Name) -> Step | None:
        """The step of such a vm. The caller has made sure that nothing holds it and nobody works on it."""
        before = self._before
        step = before.at_rest.get(name) if before is not None else None
        wanted = self._turn.desired.vms.get(name)
        if before is None or step is None or wanted is None:
            return None
        image = wanted.spec.image
        base = self._turn.observed.images.get(image)
        same = (
            wanted is before.desired.vms.get(name)
            and base is not None
            and base == before.observed.images.get(image)
            and self._turn.vms.get(name) == before.observed.by_name("vm").get(name)
        )
        return step if same else None
