"""Names for the identifiers that everything else passes around, and the rule that makes a uid from them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NewType

Name = NewType("Name", str)
"""A document's name: an RFC 1123 label, 1 to 63 of `a-z0-9-`."""

Uid = NewType("Uid", str)
"""One instance: a lower-case UUID, also QEMU's `-uuid` and cloud-init's `instance-id`."""

RunId = NewType("RunId", str)
"""One execution of a job: a lower-case UUID, and the name of its directory."""

Digest = NewType("Digest", str)
"""`sha256:` or `sha512:` and lower-case hex digits."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one boot of this host; a pid alone identifies nothing.

    `start_ticks` is field 22 of `/proc/PID/stat` (clock ticks after boot, see proc(5)); `boot_id` is
    `/proc/sys/kernel/random/boot_id`. A recycled pid differs in one of them.
    """

    boot_id: str
    pid: int
    start_ticks: int


TICKS_PER_SECOND = 100
"""Of `start_ticks`: USER_HZ, which is 100 on every architecture that Linux runs Python on."""


def instance_uid(state_id: str, kind: str, name: str, generation: int) -> Uid:
    """The uid of generation `generation` of `name`: the same for the same input, so that a planner can choose it.

    `state_id` is the random UUID that a state directory was born with; two states never agree on a uid.
    """
    return Uid(str(uuid.uuid5(uuid.UUID(state_id), f"{kind}/{name}/{generation}")))


def run_id(state_id: str, name: str, number: int) -> RunId:
    """The id of the `number`th run of a job: the same for the same input, as with `instance_uid`."""
    return RunId(str(uuid.uuid5(uuid.UUID(state_id), f"run/{name}/{number}")))
