"""Powers every VM down when its agent leaves, where that is asked for: those first that others do not depend on.

What is powered down so is recorded as stopped, beside documents that want it to run: the next agent starts it from its
own disk. It refuses to give up on one for another: what does not end is told and stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.hypervisor.api import Hypervisor
from agent.steps import Power, Step
from state.ids import Name
from state.ledger import Ledger
from state.lifecycle import Cause
from state.observed import Instance
from state.spec.resolved import VmSpec

WHY = "the agent leaves and takes its VMs down"
_DECIDED_BY = "parting"


class Hands(Protocol):
    """What does a step."""

    async def perform(self, step: Step, pass_id: str) -> None: ...


async def power_down(ledger: Ledger, hypervisor: Hypervisor, hands: Hands) -> list[Name]:
    """End every machine that runs, each within its `stop_timeout` and what QEMU takes then; the names of those that did
    not. Runs of jobs have ended before: a VM that was kept for a look is not kept any longer."""
    await ledger.free()
    for names in dependents_first(_specs(_alive(ledger, hypervisor))):
        async with asyncio.TaskGroup() as group:
            for instance in _alive(ledger, hypervisor):
                if instance.name in names:
                    group.create_task(hands.perform(_stop(instance), _DECIDED_BY))
        await ledger.free()
    return [instance.name for instance in _alive(ledger, hypervisor)]


def dependents_first(specs: Mapping[Name, VmSpec]) -> Sequence[frozenset[Name]]:
    """The names in groups, each after all that depend on its members; a circle ends together."""
    left = dict(specs)
    groups = []
    while left:
        needed = {name for spec in left.values() for name in spec.depends_on}
        group = frozenset(left.keys() - needed) or frozenset(left)
        groups.append(group)
        left = {name: spec for name, spec in left.items() if name not in group}
    return groups


def _alive(ledger: Ledger, hypervisor: Hypervisor) -> list[Instance]:
    return [
        one
        for one in ledger.instances()
        if one.process is not None and hypervisor.alive(one.uid, one.process)
    ]


def _specs(instances: Sequence[Instance]) -> dict[Name, VmSpec]:
    return {one.name: VmSpec.from_canonical(one.spec) for one in instances}


def _stop(instance: Instance) -> Power:
    spec = VmSpec.from_canonical(instance.spec)
    return Power(
        kind="job" if instance.kind == "job" else "vm",
        name=instance.name,
        because=WHY,
        source=instance.source,
        uid=instance.uid,
        spec=spec,
        to="stopped",
        cause=Cause.POWER,
        grace=spec.stop_timeout if instance.kind == "vm" else 0.0,
    )
