"""Asks each running guest whether it lets us in, until it does, and records when. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from agent.errors import NotReady
from agent.hypervisor.api import Doorway
from agent.intent import Clock
from state.history import Event
from state.ids import Process, Uid
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance, Observed, RunState, Verdict
from state.records import LedgerUnreadable
from state.spec.resolved import VmSpec

BETWEEN_TRIES = 0.2
"""Seconds from one refusal to the next knock."""
AFTER_A_STRANGER = 5.0
"""Seconds until the next knock after one that met another host key."""


class Readiness:
    """Keeps one knocking task for each guest that has not answered since it was started."""

    def __init__(
        self, ledger: Ledger, doorway: Doorway, clock: Clock, notify: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._doorway = doorway
        self._clock = clock
        self._notify = notify
        self._tasks: dict[tuple[Uid, Process], asyncio.Task[None]] = {}

    def follow(self, observed: Observed, group: asyncio.TaskGroup) -> None:
        """Knock where a guest runs and has not answered; stop where that is over."""
        due: dict[tuple[Uid, Process], Instance] = {}
        for seen in observed.instances:
            instance = seen.instance
            if (
                instance.kind == "vm"  # the run of a job goes in by itself
                and instance.process is not None
                and instance.ready_at is None
                and instance.ssh_port is not None
                and instance.phase is Phase.RUNNING
                and seen.verdict is Verdict.ALIVE
                and seen.attached
                and seen.view.state is RunState.RUNNING
            ):
                due[instance.uid, instance.process] = instance
        for key in [key for key in self._tasks if key not in due]:
            self._tasks.pop(key).cancel()
        for key, instance in due.items():
            if key not in self._tasks or self._tasks[key].done():
                self._tasks[key] = group.create_task(self._knock(instance))

    async def _knock(self, instance: Instance) -> None:
        user = VmSpec.from_canonical(instance.spec).image.ssh_user
        told = False
        while True:
            try:
                await self._doorway.answers(
                    instance.uid, instance.name, instance.ssh_port or 0, user
                )
            except NotReady:
                await asyncio.sleep(BETWEEN_TRIES)
            except LedgerUnreadable:
                raise
            except Exception as error:  # noqa: BLE001 - a guest must not be able to end its agent
                # Somebody else answers in the guest's place. It may pass, so it is asked again, but it is told.
                await self._ledger.free()
                if not told:
                    self._tell(instance, type(error).__name__, str(error))
                told = True
                await asyncio.sleep(AFTER_A_STRANGER)
            else:
                break
        await self._ledger.free()
        self._record(instance)

    def _tell(self, instance: Instance, reason: str, message: str) -> None:
        with self._ledger.transaction() as change:
            change.event(
                Event(
                    at=self._clock().wall,
                    reason=reason,
                    message=message,
                    name=instance.name,
                    uid=instance.uid,
                    kind="vm",
                )
            )

    def _record(self, instance: Instance) -> None:
        now = self._clock()
        current = self._ledger.instance(instance.uid)
        if (
            current is None
            or current.process != instance.process
            or current.phase is not Phase.RUNNING
        ):
            return
        took = now.wall - (current.started_at or now.wall)
        with self._ledger.transaction() as change:
            change.put_instance(replace(current, ready_at=now.wall))
        self._tell(instance, "Ready", f"answers over SSH, {took:.1f} s after its start")
        self._notify(f"{instance.name} is ready")
