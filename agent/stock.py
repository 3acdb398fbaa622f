"""The images of the store: which of them nobody needs, taking those out, and how one is told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from agent.errors import Blocked
from agent.hypervisor.api import Backend, Kept
from state.clock import stamp
from state.desired import Desired
from state.observed import Instance, StoredImage
from state.records import instance_of
from state.runs import Run
from state.spec.resolved_job import JobSpec


class Records(Protocol):
    """What there is: a Ledger."""

    def instances(self) -> list[Instance]: ...
    def runs(self) -> list[Run]: ...


def described(image: StoredImage) -> str:
    """What a sentence begins with that says what became of one."""
    of = f" of {image.source}" if image.source else ""
    return f"the image {image.base.digest[:19]}{of}, which nobody needs,"


async def unneeded(records: Records, backend: Backend, desired: Desired) -> list[StoredImage]:
    """What no document asks for, nor a run that has not ended, and no instance stands on; the longest unused first.
    Raises Blocked where the files of one do not tell what it stands on."""
    images, instances = backend.images, records.instances()
    wanted = {vm.spec.image for vm in desired.vms.values()}
    wanted |= {job.spec.image for job in desired.jobs.values()}
    wanted |= {
        JobSpec.from_canonical(run.spec).image for run in records.runs() if not run.phase.ended
    }
    # A name that is held is made again by what it was last given.
    wanted |= {one.vm_spec.image for one in instances}
    needed = {base.path for base in (await images.look(wanted)).values()}
    needed |= {one.base.path for one in instances}
    # A ledger that was lost does not know them all.
    needed |= {_stands_on(kept) for kept in backend.hypervisor.kept()}
    spare = [one for one in await images.stored() if one.base.path not in needed]
    return sorted(spare, key=lambda one: one.used_at)


def _stands_on(kept: Kept) -> Path:
    try:
        return instance_of(json.loads(kept.record)).base.path
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Blocked(
            f"removing the images that nobody needs: the files of {kept.uid} do not tell which it stands on",
            hint="let an agent see to that machine first",
        ) from error


async def prune(
    records: Records, backend: Backend, desired: Desired, enough: int | None = None
) -> list[StoredImage]:
    """Take them out, until `enough` bytes are had back; None: all of them. What was taken. Raises Blocked."""
    taken: list[StoredImage] = []
    for one in await unneeded(records, backend, desired):
        if enough is not None and sum(gone.size for gone in taken) >= enough:
            break
        if any(instance.base.path == one.base.path for instance in records.instances()):
            continue  # it was begun just now
        await backend.images.remove(one)
        taken.append(one)
    return taken


def told(image: StoredImage) -> dict[str, Any]:
    """One as JSON: sizes in bytes; `source` null where it is not known."""
    return {
        "digest": image.base.digest,
        "format": image.base.format,
        "source": image.source or None,
        "path": str(image.base.path),
        "size": image.size,
        "virtual_size": image.base.virtual_size,
        "fetched_at": stamp(image.fetched_at),
        "used_at": stamp(image.used_at),
    }
