"""What the instance that serves under a name needs: as its document says, or by its own spec while what the document
asks for cannot be told or cannot be done. Pure, and never a replacement.
"""

from __future__ import annotations

from dataclasses import replace

from agent.keepalive import answer
from agent.live import Question
from agent.steps import Create, Keep, Restart, Step, Wait
from agent.turn import Turn
from state.desired import WantedVm
from state.ids import Name
from state.observed import Instance, Retry, Seen, Verdict, step_key, vm_key
from state.spec.resolved import VmSpec

_NEVER_FAILED = Retry("")


class Upkeep:
    """The care for what there is, in one pass."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def meanwhile(self, name: Name, gives_way: bool = False) -> Step | None:
        """What is to be done for the instance that serves while what its document asks for cannot be done."""
        wanted = self._turn.desired.vms.get(name)
        step = self.by_its_own(name, wanted.spec if wanted else None, gives_way)
        return step if step is not None and step.acts else None

    def by_its_own(
        self, name: Name, asked: VmSpec | None = None, gives_way: bool = False
    ) -> Step | None:
        """What the one instance that serves under the name needs by its own spec; None where there is none, or where
        it is to be left alone. Of what is `asked` for it is given its power, which needs no replacement, and where it
        `gives_way` it is left without the ports that others wait for."""
        seen = self._turn.vms.get(name, [])
        serving = [one for one in seen if one.instance.started_at is not None] or seen[-1:]
        if len(serving) > 1:
            serving = [one for one in seen if one.verdict is not Verdict.GONE]
        if len(serving) != 1:
            return None
        [one] = serving
        spec = one.instance.vm_spec
        if spec.suspend:
            return None
        if asked is not None:
            spec = replace(spec, power=asked.power)
            if gives_way:
                # For good: should its replacement then fail, it does not take back what others wait for.
                spec = replace(spec, ports=self._turn.leases.kept(name, spec.ports, asked.ports))
        step = self.kept(WantedVm(spec, one.instance.source), one)
        others = {other.verdict for other in seen if other is not one}
        # Beside one that is certainly inert it may go on; what cannot be told may be running.
        over = isinstance(step, Create) and Verdict.ALIVE in others
        over |= isinstance(step, Create | Restart) and Verdict.UNKNOWN in others
        return None if over else step

    def kept(self, wanted: WantedVm, one: Seen) -> Step:
        """What an instance needs that is to stay what it is."""
        if _unborn(one):
            return self.unstarted(wanted, one.instance)
        failed = self._turn.observed.retries.get(step_key(wanted.spec.name, Restart.action))
        return answer(
            Question(
                seen=one,
                spec=wanted.spec,
                source=wanted.source,
                retry=self._turn.observed.retries.get(vm_key(wanted.spec.name), _NEVER_FAILED),
                accelerator=self._turn.policy.accelerator,
                leases=self._turn.leases,
                now=self._turn.now,
                free_disk=self._turn.observed.free_disk,
                failed=failed.error if failed is not None else "",
                began=self._turn.policy.began,
            )
        )

    def unstarted(self, wanted: WantedVm, begun: Instance | None) -> Step:
        """The step for what has never run. `begun`: the instance whose making was cut off."""
        spec = wanted.spec
        if spec.power == "stopped":
            return Keep(
                name=spec.name,
                because="power is stopped, and it was never started",
                reason="Stopped",
                source=wanted.source,
            )
        because = "it was never started" if begun else "no instance of it is there"
        birth = self._turn.births.choose(wanted, begun, [])
        if isinstance(birth, Wait):
            return birth
        fetch = self._turn.fetches.missing(spec.image)
        return self._turn.fetches.wait(wanted) or Create(
            name=spec.name, because=because, source=wanted.source, birth=birth, fetch=fetch
        )


def _unborn(seen: Seen) -> bool:
    """Whether not one instruction of the guest has run, so that a start of it is a creation."""
    return seen.instance.started_at is None and seen.verdict is Verdict.GONE
