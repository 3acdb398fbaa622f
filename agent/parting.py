"""Powers every VM down when its agent leaves, where that is asked for: those first that others do not depend on.

What is powered down so is recorded as stopped, beside documents that want it to run: the next agent starts it from its
own disk. It refuses to give up on one for another: what does not end is told and stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.hypervisor.api import Hypervisor
from agent.intent import Clock, bug
from agent.steps import Power, Step
from state.ids import Name
from state.ledger import Ledger
from state.lifecycle import Cause
from state.observed import Instance
from state.records import LedgerUnreadable
from state.spec.resolved import VmSpec

WHY = "the agent leaves and takes its VMs down"
_DECIDED_BY = "parting"


class Hands(Protocol):
    """What does a step."""

    async def perform(self, step: Step, pass_id: str) -> None: ...


async def power_down(
    ledger: Ledger, hypervisor: Hypervisor, hands: Hands, clock: Clock
) -> list[Name]:
    """End every machine that runs, each within its `stop_timeout` and what QEMU takes then; the names of those that did
    not. Runs of jobs have ended before: a VM that was kept for a look is not kept any longer. A bug of ours is told and
    costs its own name alone."""

    async def end(instance: Instance) -> None:
        step = _stop(instance)
        try:
            await hands.perform(step, _DECIDED_BY)
        except LedgerUnreadable:
            raise
        except Exception as error:  # noqa: BLE001 - one name fails alone, also by a bug of ours
            doing = f"{step.action} of {step.name}"
            with ledger.transaction() as change:
                change.event(bug(clock(), _DECIDED_BY, doing, error, step.name))

    await ledger.free()
    for names in _in_turn(_alive(ledger, hypervisor)):
        async with asyncio.TaskGroup() as group:
            for instance in _alive(ledger, hypervisor):
                if instance.name in names:
                    group.create_task(end(instance))
        await ledger.free()
    return [instance.name for instance in _alive(ledger, hypervisor)]


def grace_of(instance: Instance) -> float:
    """Seconds that its guest gets to end itself; the default where its spec cannot be read."""
    spec = _spec(instance)
    return VmSpec.stop_timeout if spec is None else spec.stop_timeout


def longest(instances: Sequence[Instance]) -> float:
    """Seconds that `power_down` may give their guests, group after group."""
    return sum(
        max(_grace(one) for one in instances if one.name in names) for names in _in_turn(instances)
    )


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


def _in_turn(instances: Sequence[Instance]) -> list[frozenset[Name]]:
    """The names in groups; those come last of which it cannot be read what they depend on."""
    read = {one.name: spec for one in instances if (spec := _spec(one)) is not None}
    unread = frozenset(one.name for one in instances) - read.keys()
    return [*dependents_first(read), *([unread] if unread else [])]


def _spec(instance: Instance) -> VmSpec | None:
    """None for one that this version cannot read."""
    try:
        return instance.vm_spec
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _grace(instance: Instance) -> float:
    return grace_of(instance) if instance.kind == "vm" else 0.0


def _stop(instance: Instance) -> Power:
    return Power(
        kind="job" if instance.kind == "job" else "vm",
        name=instance.name,
        because=WHY,
        source=instance.source,
        uid=instance.uid,
        spec=_spec(instance),
        to="stopped",
        cause=Cause.POWER,
        grace=_grace(instance),
    )
