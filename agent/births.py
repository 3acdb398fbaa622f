"""Every choice for an instance that is to be: its generation, uid, ports and user, and whether the host can hold it.
Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agent.leases import Leases, forwards_of
from agent.live import at_its_size
from agent.policy import Policy
from agent.steps import Birth, Wait
from state.desired import WantedVm
from state.ids import instance_uid
from state.observed import Instance, Observed, Seen
from state.spec.units import format_size

NO_DISK = "NotEnoughDisk"
LOOK_AGAIN = 5.0
"""Seconds until it is looked whether there is room by now."""


class Births:
    """The new instances of one pass."""

    def __init__(self, observed: Observed, policy: Policy, leases: Leases) -> None:
        self._observed = observed
        self._policy = policy
        self._leases = leases

    def too_large(self, wanted: WantedVm) -> Wait | None:
        """The wait of what this host could not hold if it held nothing else."""
        memory, most = wanted.spec.memory, self._policy.memory
        if most is None or memory <= most:
            return None
        return _wait(
            wanted,
            "NotEnoughMemory",
            f"memory {format_size(memory)} is more than this host has ({format_size(most >> 20 << 20)})",
            "memory",
        )

    def _no_disk(self, wanted: WantedVm) -> Wait | None:
        """The wait of whatever is new where the disk is nearly full: what is there needs the rest."""
        free, floor = self._observed.free_disk, self._policy.disk_floor
        if free is None or free >= floor:
            return None
        said = (
            f"the disk has {format_size(free >> 20 << 20)} left, and nothing new begins below"
            f" {format_size(floor)}"
        )
        return replace(_wait(wanted, NO_DISK, said), until=LOOK_AGAIN)

    def choose(
        self,
        wanted: WantedVm,
        begun: Instance | None,
        own: list[Seen],
        kind: Literal["vm", "job"] = "vm",
    ) -> Birth | Wait:
        """What an instance of `wanted` is to be given, or the wait for what it cannot have. `begun`: the one whose
        making was cut off; `own`: the instances of the name that it is to replace."""
        spec = wanted.spec
        if (wait := self.too_large(wanted)) is not None:
            return wait
        if (wait := self._no_disk(wanted)) is not None:
            return wait
        port = self._leases.ssh_port(spec.name) if spec.image.nocloud else None
        if spec.image.nocloud and port is None:
            ports = self._policy.ssh_ports
            return _wait(
                wanted,
                "NoFreePort",
                f"every port from {ports.start} to {ports.stop - 1} is leased or taken",
            )
        forwards = forwards_of(spec, port)
        clash = self._leases.conflict(spec.name, forwards, own)
        if clash and spec.power != "stopped":
            return _wait(wanted, "PortTaken", clash, "ports")
        if begun is not None:
            spec = at_its_size(spec, begun)
            generation, uid, run_as = begun.generation, begun.uid, begun.run_as
        else:
            known = self._observed.names.get(spec.name)
            highest = max((one.instance.generation for one in own), default=0)
            generation = max(known.generation if known else 0, highest) + 1
            uid = instance_uid(self._policy.state_id, kind, spec.name, generation)
            run_as = self._leases.run_as()
        return Birth(
            uid=uid,
            generation=generation,
            spec=spec,
            source=wanted.source,
            accelerator=self._policy.accelerator,
            ssh_port=port,
            run_as=run_as,
            forwards=forwards,
            kind=kind,
        )


def _wait(wanted: WantedVm, reason: str, because: str, *fields: str) -> Wait:
    return Wait(
        name=wanted.spec.name, because=because, reason=reason, fields=fields, source=wanted.source
    )
