"""The composition root: from settings to the parts that an agent, a plan or a clean-up needs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agent.config import Settings
from agent.errors import BadUsage, StateUnusable
from agent.host import LinuxHost, ephemeral_ports, memory, run_as_range
from agent.hypervisor.api import Backend
from agent.paths import StatePaths
from agent.policy import Policy, ssh_ports
from state import database
from state.clock import Moment
from state.history import Event
from state.ledger import Ledger, LedgerNewer
from state.observed import DISK_FLOOR
from state.records import LedgerDamaged, LedgerUnreadable
from state.runs import Run

if TYPE_CHECKING:
    from agent.fetcher import Fetcher
    from agent.jobs.store import Give
    from agent.publisher import Publisher
    from agent.reading import Source
    from agent.source.git.origin import Origin
    from agent.statedir import StateDirectory
    from agent.wake import Wake

DEFAULT_QEMU = "qemu-system-x86_64"


def origin_of(settings: Settings) -> Origin | None:
    """The repository that documents come from; None where they come from a directory. Raises BadUsage where neither was
    said, or what cannot be."""
    if settings.git is not None:
        from agent.source.git.origin import origin
        from agent.source.git.statusref import checked_ref

        if settings.status_ref is not None:
            checked_ref(settings.status_ref)
        return origin(settings.git, settings.branch, settings.path)
    if settings.desired is None:
        raise BadUsage(
            "no source of documents was given",
            hint="say --desired DIR or --git URL, or set HOLDFAST_DESIRED or HOLDFAST_GIT",
        )
    for name in ("branch", "path", "verify_signatures", "status_ref"):
        if getattr(settings, name) is not None:
            option = name.replace("_", "-")
            raise BadUsage(f"--{option} says something of a repository", hint="say --git URL, too")
    return None


def open_source(settings: Settings, paths: StatePaths) -> Source:
    """Where documents come from. A repository is not asked yet."""
    origin = origin_of(settings)
    if origin is not None:
        from agent.source.git.clone import Clone
        from agent.source.git.source import GitSource
        from agent.source.git.trust import Signers

        signers = settings.verify_signatures
        return GitSource(
            Clone(paths, origin, Signers(signers) if signers is not None else None),
            host=settings.host_name(),
            images_file=settings.images,
            image_roots=settings.image_root,
        )
    from agent.source.directory import DirectorySource

    assert settings.desired is not None  # noqa: S101 - origin_of says so
    return DirectorySource(
        settings.desired,
        host=settings.host_name(),
        images_file=settings.images,
        image_roots=settings.image_root,
    )


def secrets_of(settings: Settings) -> Give | None:
    """What gives secrets of this host to jobs, where that is asked for."""
    if settings.secrets is None:
        return None
    from agent.source.hostsecrets import HostSecrets

    return HostSecrets(settings.secrets, os.environ)


def fetcher_of(settings: Settings, source: Source, wake: Wake, interval: float) -> Fetcher | None:
    """What asks the server, where documents come from one."""
    if settings.git is None:
        return None
    from agent.fetcher import Fetcher
    from agent.source.git.source import GitSource

    assert isinstance(source, GitSource)  # noqa: S101 - as `open_source` made it
    return Fetcher(source, wake, interval)


def publisher_of(
    settings: Settings, paths: StatePaths, ledger: Ledger, clock: Callable[[], Moment]
) -> Publisher | None:
    """What tells the repository what became of its documents, where that is asked for."""
    origin = origin_of(settings)
    if origin is None or settings.status_ref is None:
        return None
    from agent.cli.reading import alive_of, read
    from agent.publisher import Publisher
    from agent.source.git.statusref import StatusRef
    from agent.status import status
    from agent.statusmd import page

    def told() -> dict[str, Any]:
        pid = os.getpid()
        with read(paths) as reader:  # the ledger's own is for the thread that writes
            return status(reader, paths, agent_pid=pid, alive=alive_of(reader, pid))

    host = settings.host_name()
    target = StatusRef(paths, origin, settings.status_ref, host)
    return Publisher(target, ledger, clock, told, partial(page, host=host))


def hold(root: Path) -> StateDirectory:
    """Hold a state directory. One that has lost its id has it again where a machine of it runs. Raises StateInUse,
    StateUnusable."""
    from agent.statedir import StateDirectory

    def lost(paths: StatePaths) -> str | None:
        from agent.hypervisor.qemu.lineage import state_id

        return state_id(paths)

    return StateDirectory(root, lost)


def open_ledger(
    paths: StatePaths,
    on_event: Callable[[Event], None] | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> Ledger:
    """The ledger of a state directory that this process holds. A damaged one is set aside, and the new one will be
    filled from the machines and their files. Raises StateUnusable."""

    def opened() -> Ledger:
        return Ledger(
            paths.database,
            sockets=paths.sockets,
            ballast=paths.ballast,
            on_event=on_event,
            on_run=on_run,
        )

    try:
        try:
            return opened()
        except LedgerDamaged as damage:
            aside = database.set_aside(paths.database)
            ledger = opened()
            said = (
                f"{damage}; it is kept as {aside.name}, and a new one is filled from what is there"
            )
            with ledger.transaction() as change:
                change.event(Event(at=wall(), reason="DatabaseSetAside", message=said))
            return ledger
    except OSError as error:
        raise StateUnusable(
            f"setting the damaged {paths.database} aside: {error.strerror}",
            hint="move it away: no VM is lost by that",
        ) from error
    except LedgerUnreadable as error:
        hint = "start the version that it belongs to"
        raise StateUnusable(
            f"opening {paths.database}: {error}",
            hint=hint if isinstance(error, LedgerNewer) else "see to its disk, and try again",
        ) from error


def open_backend(paths: StatePaths, settings: Settings, state_id: str) -> Backend:
    """The hypervisor and all that belongs to it."""
    if settings.hypervisor == "memory":
        from agent.hypervisor.memory import MemoryHost

        return MemoryHost(boot_delay=1.0).backend()
    from agent.guest.checkups import GuestCheckups
    from agent.guest.image import ImageStore
    from agent.guest.ssh import SshDoorway
    from agent.hypervisor.qemu.driver import QemuHypervisor
    from agent.hypervisor.qemu.meter import QemuMeter

    hypervisor = QemuHypervisor(paths, state_id, qemu=settings.qemu or DEFAULT_QEMU)
    return Backend(
        hypervisor=hypervisor,
        images=ImageStore(paths.images, floor=_floor(settings), run_as=_inspector()),
        doorway=SshDoorway(paths),
        checkups=GuestCheckups(paths, hypervisor.accepted),
        meter=QemuMeter(
            paths, lambda uid: hypervisor.view(uid).responsive, hypervisor.heard_elsewhere
        ),
        host=LinuxHost(paths.root),
    )


def clock_of(backend: Backend) -> Callable[[], Moment]:
    """The one place that reads a wall clock."""
    host = backend.host

    def now() -> Moment:
        return Moment(wall(), host.boottime(), host.boot_id)

    return now


def wall() -> float:
    """Unix time, for what is recorded outside of a pass."""
    return time.time()  # noqa: TID251 - here it is read, and handed on


def policy_of(settings: Settings, state_id: str, accelerator: str) -> Policy:
    """What the operator and the host allow."""
    ports = ssh_ports(ephemeral_ports())
    policy = Policy(
        state_id,
        accelerator,
        ssh_ports=ports,
        first_ssh_port=ports[UUID(state_id).int % len(ports)],
        capacity=dict(settings.capacity_map),
        disk_floor=_floor(settings),
        drain_timeout=settings.drains_for,
    )
    if settings.max_concurrency is not None:
        policy = replace(policy, max_concurrency=settings.max_concurrency)
    if settings.max_destroy is not None:
        policy = replace(policy, max_destroy=settings.max_destroy)
    if settings.on_stop == "shutdown":
        policy = replace(policy, on_stop="shutdown")
    if settings.hypervisor == "memory":
        return policy
    uids = run_as_range()
    return replace(policy, run_as=uids[:-1] if uids else None, memory=memory())


def _floor(settings: Settings) -> int:
    return DISK_FLOOR if settings.disk_floor is None else settings.disk_floor


def _inspector() -> int | None:
    """Who looks at images that have come: a uid that no machine is given."""
    uids = run_as_range()
    return uids[-1] if uids else None
