"""The composition root: from settings to the parts that an agent, a plan or a clean-up needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from agent.config import Settings
from agent.errors import StateUnusable
from agent.host import LinuxHost, memory, run_as_range
from agent.hypervisor.api import Backend
from agent.loop import Source
from agent.paths import StatePaths
from agent.policy import SSH_PORTS, Policy
from state import database
from state.clock import Moment
from state.history import Event
from state.ledger import Ledger, LedgerNewer
from state.records import LedgerDamaged, LedgerUnreadable
from state.runs import Run

DEFAULT_QEMU = "qemu-system-x86_64"


def open_source(settings: Settings) -> Source:
    """Where documents come from."""
    from agent.source.directory import DirectorySource

    return DirectorySource(
        settings.desired_directory(),
        host=settings.host_name(),
        images_file=settings.images,
        image_roots=settings.image_root,
    )


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
                change.event(Event(at=_wall(), reason="DatabaseSetAside", message=said))
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

    hypervisor = QemuHypervisor(paths, state_id, qemu=settings.qemu or DEFAULT_QEMU)
    return Backend(
        hypervisor=hypervisor,
        images=ImageStore(paths.images),
        doorway=SshDoorway(paths),
        checkups=GuestCheckups(paths, hypervisor.accepted),
        host=LinuxHost(paths.root),
    )


def clock_of(backend: Backend) -> Callable[[], Moment]:
    """The one place that reads a wall clock."""
    host = backend.host

    def now() -> Moment:
        return Moment(_wall(), host.boottime(), host.boot_id)

    return now


def _wall() -> float:
    return time.time()  # noqa: TID251 - here it is read, and handed on


def policy_of(settings: Settings, state_id: str, accelerator: str) -> Policy:
    """What the operator and the host allow."""
    policy = Policy(
        state_id,
        accelerator,
        first_ssh_port=SSH_PORTS[UUID(state_id).int % len(SSH_PORTS)],
        capacity=dict(settings.capacity_map),
    )
    if settings.max_concurrency is not None:
        policy = replace(policy, max_concurrency=settings.max_concurrency)
    if settings.drain_timeout is not None:
        policy = replace(policy, drain_timeout=settings.drain_timeout)
    if settings.hypervisor == "memory":
        return policy
    return replace(policy, run_as=run_as_range(), memory=memory())
