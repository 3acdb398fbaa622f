"""What a vm that is to be started waits for: the vms that its document depends on, until they are ready. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.steps import Keep, Restart, Starting, Step, Wait
from state.desired import Desired
from state.ids import Name
from state.lifecycle import Phase
from state.observed import RunState, Seen, Verdict


class Dependencies:
    """Who is ready in one pass. `steps` are what it would do if nothing depended on anything."""

    def __init__(
        self, desired: Desired, seen: Mapping[Name, list[Seen]], steps: Iterable[Step]
    ) -> None:
        self._desired = desired
        self._seen = seen
        self._steps = {step.name: step for step in steps}

    def wait(self, step: Starting) -> Wait | None:
        """The wait of a step that starts a vm, while one of those that it depends on is not ready."""
        spec = step.spec if isinstance(step, Restart) else step.birth.spec
        for name in spec.depends_on:
            if (why := self._missing(name)) is not None:
                return Wait(
                    name=step.name,
                    because=f"{name} is not ready ({why})",
                    reason="DependsOn",
                    fields=("depends_on",),
                    source=step.source,
                )
        return None

    def _missing(self, name: Name) -> str | None:
        """Why the vm is not ready; None when it is."""
        step = self._steps.get(name)
        if step is None:
            job = name in self._desired.jobs
            return "it is a job" if job else "no document of this host names it"
        if not isinstance(step, Starting) and any(map(_ready, self._seen.get(name, ()))):
            return None
        if isinstance(step, Keep) and step.reason == "Ready":
            return "its monitor does not answer"
        return step.because


def _ready(seen: Seen) -> bool:
    instance, view = seen.instance, seen.view
    if (
        instance.phase is not Phase.RUNNING
        or seen.verdict is not Verdict.ALIVE
        or not view.responsive
        or view.state is not RunState.RUNNING
    ):
        return False
    if instance.ready_at is not None:
        return True
    spec = instance.vm_spec
    return spec.health is None and not spec.image.nocloud
