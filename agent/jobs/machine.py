"""The throw-away VM of a job, said as the spec of a vm: what starts and ends machines knows no other. Pure."""

from __future__ import annotations

from state.spec.resolved import VmSpec
from state.spec.resolved_job import JobSpec


def machine_spec(job: JobSpec) -> VmSpec:
    """What a run's VM is made of. It has no ports but the leased one for SSH, and nothing brings it back."""
    return VmSpec(
        name=job.name,
        image=job.image,
        cpus=job.cpus,
        memory=job.memory,
        disk=job.disk,
        restart="never",
        stop_timeout=0.0,
    )
