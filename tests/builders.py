"""Short ways to say specs, desired trees and moments in tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from state.clock import Moment
from state.desired import Desired, Problem, SourceInfo, SourceRef, WantedVm
from state.ids import Digest, Name
from state.spec.resolved import ImageSpec, VmSpec

STATE_ID = "6f0b0c52-6f0a-4b0e-9a59-0a5b3f4f6d10"
DIRECTORY = SourceInfo("directory", "/desired")
IMAGE = ImageSpec("debian-12", "file:///images/debian-12.qcow2", Digest("sha256:" + "1" * 64))


def vm(name: str = "web", **fields: Any) -> VmSpec:
    """A spec with every default but what is given."""
    fields.setdefault("image", IMAGE)
    fields.setdefault("cpus", 1)
    fields.setdefault("memory", 512 << 20)
    return VmSpec(Name(name), **fields)


def wanted(*specs: VmSpec, file: str | None = None) -> dict[Name, WantedVm]:
    """Each spec from a file of its own name, or all from `file`."""
    return {spec.name: WantedVm(spec, SourceRef(file or f"{spec.name}.yaml", 1)) for spec in specs}


def desired(
    *specs: VmSpec, problems: Iterable[Problem] = (), unproven: str | None = None
) -> Desired:
    """A readable tree with these vms."""
    return Desired(DIRECTORY, wanted(*specs), tuple(problems), unproven=unproven)


def broken(name: str | None, file: str = "web.yaml") -> Problem:
    """A problem of the document of `name`, or of one that cannot tell its name."""
    return Problem(file, 3, 1, "it is broken", Name(name) if name else None, "vm")


def moment(boottime: float = 1000.0, boot_id: str = "boot-1") -> Moment:
    """A moment of one boot."""
    return Moment(1_700_000_000.0 + boottime, boottime, boot_id)
