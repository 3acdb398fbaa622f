"""What an instance can become while it runs, or while it is down, without being replaced or restarted: its labels, its
ports, the size of its disk, and whatever else its document says of a live field. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from agent.leases import Leases, forwards_of
from agent.steps import Step, Update, Wait
from state.clock import Moment
from state.desired import SourceRef
from state.observed import Instance, Retry, Seen, Verdict
from state.spec.resolved import Forward, VmSpec, changes


class Question(NamedTuple):
    """One instance, the spec that it shall follow, and what bears on the answer."""

    seen: Seen
    spec: VmSpec
    source: SourceRef
    retry: Retry
    accelerator: str
    leases: Leases
    now: Moment
    free_disk: int | None = None
    failed: str = ""
    """Why it could not be restarted the last time; empty: it could, or was not."""
    began: float = 0.0
    """The CLOCK_BOOTTIME since which it may have been asked whether it is ready."""


def live_changes(question: Question) -> Step | None:
    """What the instance can become while it runs. Forwards are compared with what it has, not with what its spec asked
    for: it may have been begun without them."""
    seen, spec = question.seen, question.spec
    instance = seen.instance
    forwards = forwards_of(spec, instance.ssh_port)
    binds = seen.verdict is Verdict.ALIVE and spec.power != "stopped"
    moved = forwards != instance.forwards
    same = instance.spec_digest == spec.digest
    if same and not (moved and binds):
        return None
    old = instance.vm_spec
    found = [change for change in changes(old, spec) if change.field != "power"]
    said, fields = ", ".join(map(str, found)), tuple(change.field for change in found)
    if moved and binds:
        if clash := question.leases.conflict(spec.name, forwards, [seen]):
            return _given_up(question, forwards, clash)
        if not found:
            said, fields = "it has other forwards than its document asks for", ("ports",)
    if not fields:
        return None
    return Update(
        name=spec.name,
        because=said,
        fields=fields,
        source=question.source,
        uid=instance.uid,
        spec=spec,
        forwards=forwards if moved else None,
        grow=spec.disk if _grows(old, spec) else None,
    )


def _given_up(question: Question, wanted: tuple[Forward, ...], clash: str) -> Step:
    """What an instance does that cannot have its new ports yet. Two may want each other's: what another is to have is
    given up first. Anything else it keeps until it can have the new ones."""
    instance, spec = question.seen.instance, question.spec
    kept = question.leases.kept(spec.name, instance.forwards, wanted)
    if kept == instance.forwards:
        return Wait(
            name=spec.name,
            because=clash,
            reason="PortTaken",
            fields=("ports",),
            source=question.source,
        )
    return Update(
        name=spec.name,
        because="another vm is to have its port",
        fields=("ports",),
        source=question.source,
        uid=instance.uid,
        spec=instance.vm_spec,
        forwards=kept,
    )


def at_its_size(spec: VmSpec, instance: Instance) -> VmSpec:
    """The spec as far as a start or a stop of the instance brings it about: neither makes a disk larger, so that this
    is still seen as a change, and done, afterwards."""
    old = instance.vm_spec
    return replace(spec, disk=old.disk) if _grows(old, spec) else spec


def _grows(old: VmSpec, new: VmSpec) -> bool:
    return new.disk is not None and new.disk > (old.disk or 0)
