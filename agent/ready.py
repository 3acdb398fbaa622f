"""Asks each running guest whether it is ready, and records when it is and when it no longer is. It decides nothing.

A guest whose document has no `health` is asked over SSH until it answers, and again after a reset of its own. One with
`health` is asked for as long as it runs: ready from a check that succeeds, not ready from `failures` in a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.errors import MonitorError, NotReady
from agent.hypervisor.api import Backend, Ways
from agent.intent import Clock
from state.history import Event
from state.ids import TICKS_PER_SECOND, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance, Observed, RunState, Seen, Verdict
from state.records import LedgerUnreadable
from state.spec.resolved import Forward, HealthSpec

BETWEEN_TRIES = 0.2
"""Seconds from one refusal to the next knock of a guest without `health`."""
AFTER_A_STRANGER = 5.0
"""Seconds until the next knock after one that met another host key."""
WHILE_STARTING = 1.0
"""Seconds at most from one check to the next, until the first one has succeeded."""


OnReady = Callable[[str, float], None]
"""Told how a VM was asked (`ssh`, `tcp`, `http`) that has become ready for the first time since its process began, and
of the seconds from its start."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One process of a guest, and how it is asked: whatever changes in this begins the asking anew."""

    uid: Uid
    process: Process
    health: HealthSpec | None
    forwards: tuple[Forward, ...]
    resets: int


class Readiness:
    """Keeps one asking task for each guest that is to be asked."""

    def __init__(
        self,
        ledger: Ledger,
        backend: Backend,
        clock: Clock,
        notify: Callable[[str], None],
        on_ready: OnReady,
    ) -> None:
        self._ledger = ledger
        self._doorway = backend.doorway
        self._checkups = backend.checkups
        self._clock = clock
        self._notify = notify
        self._on_ready = on_ready
        self._began = clock().wall
        self._tasks: dict[_Asked, asyncio.Task[None]] = {}
        self._resets: dict[tuple[Uid, Process], int] = {}

    def follow(self, observed: Observed, group: asyncio.TaskGroup) -> None:
        """Ask where a guest runs and is to be asked; stop where that is over."""
        due: dict[_Asked, Instance] = {}
        resets = {}
        for seen in observed.instances:
            instance = seen.instance
            if instance.process is None or not _asks(seen):
                continue
            key = (instance.uid, instance.process)
            resets[key] = self._resets.get(key, seen.view.resets)
            if instance.ready_at is None:
                resets[key] = seen.view.resets
            elif resets[key] < seen.view.resets:
                self._not_ready(instance, "Rebooted", "its guest has reset itself", "")
                resets[key] = seen.view.resets
            health = instance.vm_spec.health
            if health is not None or (instance.ready_at is None and instance.ssh_port is not None):
                forwards = () if health is None else instance.forwards
                due[_Asked(*key, health, forwards, resets[key])] = instance
        self._resets = resets
        still = {asked.uid for asked in due}
        for asked in [asked for asked in self._tasks if asked not in due]:
            self._tasks.pop(asked).cancel()
            if asked.uid not in still:
                self._checkups.forget(asked.uid)
        for asked, instance in due.items():
            if asked not in self._tasks or self._tasks[asked].done():
                self._tasks[asked] = group.create_task(self._ask(asked, instance))

    async def _knock(self, asked: _Asked, instance: Instance) -> None:
        user = instance.vm_spec.image.ssh_user
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
        self._ready(asked, instance, "answers over SSH")

    async def _ask(self, asked: _Asked, instance: Instance) -> None:
        if asked.health is None:
            await self._knock(asked, instance)
        else:
            await self._check(asked, asked.health, instance)

    async def _check(self, asked: _Asked, health: HealthSpec, instance: Instance) -> None:
        """Check again and again."""
        current = self._current(instance)
        failures, ready = 0, current is not None and current.ready_at is not None
        # A guest that has reset itself starts anew.
        ticks = asked.process.start_ticks
        started = self._clock().boottime if asked.resets else ticks / TICKS_PER_SECOND
        while True:
            why = await self._failing(health, instance)
            await self._ledger.free()
            if not why:
                failures, ready = 0, True
                self._ready(asked, instance, f"passes its health check ({health})")
            elif ready or self._clock().boottime - started > health.start_period:
                failures += 1
            if failures >= health.failures:
                said = f"{health}: {why}"
                ready = False
                self._not_ready(instance, "Unhealthy", said, said)
            starting = not ready and failures < health.failures
            await asyncio.sleep(
                min(health.interval, WHILE_STARTING) if starting else health.interval
            )

    async def _failing(self, health: HealthSpec, instance: Instance) -> str:
        """Why one check failed; empty where it succeeded."""
        user, port = instance.vm_spec.image.ssh_user, instance.ssh_port
        try:
            async with asyncio.timeout(health.timeout):
                if health.check == "ssh":
                    await self._doorway.answers(instance.uid, instance.name, port or 0, user)
                else:
                    ways = Ways(instance.forwards, port, user)
                    await self._checkups.check(instance.uid, instance.name, ways, health)
        except TimeoutError:
            return f"no answer within {health.timeout:g} s"
        except (NotReady, MonitorError) as error:
            return error.message
        except LedgerUnreadable:
            raise
        except Exception as error:  # noqa: BLE001 - a guest must not be able to end its agent
            return str(error) or type(error).__name__
        return ""

    # What is recorded

    def _ready(self, asked: _Asked, instance: Instance, how: str) -> None:
        current = self._current(instance)
        if current is None or (current.ready_at is not None and not current.unhealthy):
            return
        now = self._clock()
        took = now.wall - (current.started_at or now.wall)
        with self._ledger.transaction() as change:
            change.put_instance(replace(current, ready_at=now.wall, unhealthy=""))
        seen = (current.started_at or 0.0) >= self._began  # nobody looked before
        if seen and not (asked.resets or current.unhealthy):
            self._on_ready(asked.health.check if asked.health else "ssh", took)
        self._tell(instance, "Ready", f"{how}, {took:.1f} s after its start")
        self._notify(f"{instance.name} is ready")

    def _not_ready(self, instance: Instance, reason: str, said: str, unhealthy: str) -> None:
        current = self._current(instance)
        if current is None or (current.ready_at is None and current.unhealthy == unhealthy):
            return
        first = current.ready_at is not None or not current.unhealthy
        with self._ledger.transaction() as change:
            change.put_instance(replace(current, ready_at=None, unhealthy=unhealthy))
        if first:
            self._tell(instance, reason, said)
        self._notify(f"{instance.name} is not ready")

    def _current(self, instance: Instance) -> Instance | None:
        """The row as it is now; None where the guest that was asked is not the one that runs."""
        current = self._ledger.instance(instance.uid)
        if current is None or current.process != instance.process:
            return None
        return current if current.phase is Phase.RUNNING else None

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


def _asks(seen: Seen) -> bool:
    instance = seen.instance
    return (
        instance.kind == "vm"  # the run of a job goes in by itself
        and instance.phase is Phase.RUNNING
        and seen.verdict is Verdict.ALIVE
        and seen.attached
        and seen.view.state is RunState.RUNNING
    )
