"""Short ways to say specs, desired trees and moments in tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.leases import forwards_of
from agent.planned import Plan
from agent.settled import amiss
from state.clock import Moment
from state.desired import Desired, Problem, SourceInfo, SourceRef, WantedJob, WantedVm
from state.ids import Digest, Name, Process, instance_uid, run_id
from state.lifecycle import Cause, Phase
from state.observed import BaseImage, Instance, Observed
from state.runs import Run, RunPhase
from state.spec.resolved import ImageSpec, VmSpec
from state.spec.resolved_job import JobSpec

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
    *specs: VmSpec | JobSpec, problems: Iterable[Problem] = (), unproven: str | None = None
) -> Desired:
    """A readable tree with these vms and jobs."""
    vms = [spec for spec in specs if isinstance(spec, VmSpec)]
    jobs = [spec for spec in specs if isinstance(spec, JobSpec)]
    return Desired(
        DIRECTORY,
        wanted(*vms),
        tuple(problems),
        unproven=unproven,
        jobs=wanted_jobs(*jobs),
    )


def broken(name: str | None, file: str = "web.yaml") -> Problem:
    """A problem of the document of `name`, or of one that cannot tell its name."""
    return Problem(file, 3, 1, "it is broken", Name(name) if name else None, "vm")


def moment(boottime: float = 1000.0, boot_id: str = "boot-1") -> Moment:
    """A moment of one boot."""
    return Moment(1_700_000_000.0 + boottime, boottime, boot_id)


BASE = BaseImage(Path("/images/1.qcow2"), "qcow2", 2 << 30, Digest("sha256:" + "1" * 64))


def instance(spec: VmSpec | None = None, *, generation: int = 1, **fields: Any) -> Instance:
    """A recorded instance of `spec`, pending unless `fields` say otherwise."""
    spec = spec or vm()
    values: dict[str, Any] = {
        "uid": instance_uid(STATE_ID, "vm", spec.name, generation),
        "name": spec.name,
        "generation": generation,
        "phase": Phase.PENDING,
        "cause": Cause.NONE,
        "spec": spec.canonical(),
        "spec_digest": spec.digest,
        "base": BASE,
        "accelerator": "tcg",
        "source": SourceRef(f"{spec.name}.yaml", 1),
        "created_at": 1_700_000_000.0,
        "ssh_port": 22000,
        "forwards": forwards_of(spec, 22000),
    }
    return Instance(**(values | fields))


def process(pid: int = 4242, boot_id: str = "boot-1") -> Process:
    """A process that began half a second after its host."""
    return Process(boot_id, pid, 50)


def running(spec: VmSpec | None = None, **fields: Any) -> Instance:
    """A recorded instance whose guest was let go ten seconds ago, at `moment()`, and answered five seconds ago."""
    values: dict[str, Any] = {
        "phase": Phase.RUNNING,
        "process": process(),
        "started_at": 1_700_000_990.0,
        "ready_at": 1_700_000_995.0,
    }
    return instance(spec, **(values | fields))


def job(name: str = "tests", **fields: Any) -> JobSpec:
    """A job's spec with every default but what is given."""
    values: dict[str, Any] = {
        "runs_on": "debian-12",
        "image": IMAGE,
        "cpus": 1,
        "memory": 512 << 20,
        "disk": None,
        "script": "#!/bin/sh\nmake test\n",
    }
    return JobSpec(Name(name), **values | fields)


def wanted_jobs(*specs: JobSpec) -> dict[Name, WantedJob]:
    """Each spec from a file of its own name."""
    return {spec.name: WantedJob(spec, SourceRef(f"{spec.name}.yaml", 1)) for spec in specs}


def run(spec: JobSpec | None = None, phase: RunPhase = RunPhase.QUEUED, **fields: Any) -> Run:
    """A run of `spec`, the first of its name unless `fields` say otherwise."""
    spec = spec or job()
    number = fields.setdefault("number", 1)
    values: dict[str, Any] = {
        "id": run_id(STATE_ID, spec.name, number),
        "name": spec.name,
        "spec": spec.canonical(),
        "spec_digest": spec.digest,
        "source": SourceRef(f"{spec.name}.yaml", 1),
        "phase": phase,
        "queued_at": 1_700_000_000.0,
    }
    return Run(**values | fields)


def settled(desired: Desired, observed: Observed, plan: Plan) -> bool | None:
    """Whether all is well; None: not at rest yet."""
    wrong = amiss(desired, observed, plan)
    return None if wrong is None else not wrong
