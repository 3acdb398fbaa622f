"""The world as it would be if everything were as some documents say: what another version of them is planned against
where there is no host to look at. Pure.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.leases import forwards_of
from agent.policy import Policy
from state.clock import Moment
from state.desired import Desired, WantedJob, WantedVm
from state.ids import Digest, Name, Process, instance_uid, run_id
from state.lifecycle import Cause, Phase
from state.observed import BaseImage, Instance, NameRecord, Observed, RunState, Seen, Verdict, View
from state.runs import Run, RunPhase
from state.spec.resolved import ImageSpec

_SIZE = 1 << 30


def imagined(before: Desired, after: Desired, policy: Policy, now: Moment) -> Observed:
    """Every vm of `before` runs, or rests as its power says, and every job of it has succeeded. The images of both are
    in the store; one that is not pinned is taken to be what it was."""
    vms = (*before.vms.values(), *after.vms.values())
    jobs = (*before.jobs.values(), *after.jobs.values())
    images = {one.spec.image for one in vms} | {one.spec.image for one in jobs}
    ports = iter(policy.ssh_ports)
    names = {
        name: NameRecord(name, 1, next(ports, None) if one.spec.image.nocloud else None)
        for name, one in before.vms.items()
    }
    return Observed(
        instances=tuple(
            _seen(one, names[name], number, policy, now)
            for number, (name, one) in enumerate(before.vms.items())
        ),
        names=names,
        images={image: _base(image) for image in images},
        runs=tuple(_run(name, one, policy, now) for name, one in sorted(before.jobs.items())),
    )


def _seen(wanted: WantedVm, name: NameRecord, number: int, policy: Policy, now: Moment) -> Seen:
    spec = wanted.spec
    rests = spec.power == "stopped"
    instance = Instance(
        uid=instance_uid(policy.state_id, "vm", spec.name, 1),
        name=spec.name,
        generation=1,
        phase=Phase.STOPPED if rests else Phase.RUNNING,
        cause=Cause.POWER if rests else Cause.NONE,
        spec=spec.canonical(),
        spec_digest=spec.digest,
        base=_base(spec.image),
        accelerator=policy.accelerator,
        source=wanted.source,
        created_at=now.wall,
        process=None if rests else Process(now.boot_id, number + 2, 0),
        forwards=forwards_of(spec, name.ssh_port),
        ssh_port=name.ssh_port,
        started_at=now.wall,
        ready_at=now.wall,
    )
    if rests:
        return Seen(instance, Verdict.GONE)
    state = RunState.PAUSED if spec.power == "paused" else RunState.RUNNING
    return Seen(instance, Verdict.ALIVE, View(state), attached=True)


def _run(name: Name, wanted: WantedJob, policy: Policy, now: Moment) -> Run:
    return Run(
        id=run_id(policy.state_id, name, 1),
        name=name,
        number=1,
        spec=wanted.spec.canonical(),
        spec_digest=wanted.spec.digest,
        source=wanted.source,
        phase=RunPhase.SUCCEEDED,
        queued_at=now.wall,
        reason="Succeeded",
        message="exit code 0",
        attempt=1,
        exit_code=0,
        ended_at=now.wall,
    )


def _base(image: ImageSpec) -> BaseImage:
    made = hashlib.sha256(image.source.encode()).hexdigest()
    digest = image.digest or Digest(f"sha256:{made}")
    return BaseImage(Path("/nowhere"), image.format, _SIZE, digest)
