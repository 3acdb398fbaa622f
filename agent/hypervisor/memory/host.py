"""An agent's way to a host in memory: every promise of the seam is kept without starting a process."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache

from agent.errors import MonitorError, NotReady, StartFailed
from agent.hypervisor.api import (
    Backend,
    Exit,
    Found,
    Kept,
    Machine,
    OnChange,
    RunState,
    View,
    Ways,
)
from agent.hypervisor.memory.images import MemoryImages
from agent.hypervisor.memory.meter import MemoryMeter
from agent.hypervisor.memory.session import MemorySession
from agent.hypervisor.memory.world import Guest, MemoryWorld
from state.ids import Name, Process, Uid
from state.observed import Listener
from state.spec.resolved import Forward, HealthSpec


@cache
def _view(state: RunState, frozen: bool, resets: int, in_a_row: int) -> View:
    return View(state, not frozen, "no answer" if frozen else state.value, resets, in_a_row)


class MemoryHypervisor:
    """One agent's hypervisor."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host
        self._on_change: OnChange | None = None
        self._attached: set[Uid] = set()
        self._exits: dict[Uid, Exit] = {}

    @property
    def boot_id(self) -> str:
        return self._host.boot_id

    async def open(self, on_change: OnChange) -> None:
        def changed(uid: Uid, word: str) -> None:
            if uid in self._attached:
                if self._host.guests[uid].process is None:
                    self._exits[uid] = Exit(word)
                    self._attached.discard(uid)
                on_change(uid, word)

        self._on_change = changed
        self._host.watch(changed)

    async def close(self) -> None:
        self._host.unwatch(self._on_change)
        self._attached.clear()

    def scan(self) -> Sequence[Found]:
        return [
            Found(
                uid,
                guest.process,
                guest.machine.name,
                guest.machine.generation,
                guest.machine.record,
            )
            for uid, guest in self._host.guests.items()
            if guest.process
        ]

    def kept(self, but: Collection[Uid] = ()) -> Sequence[Kept]:
        machines = [guest.machine for uid, guest in self._host.guests.items() if uid not in but]
        return [Kept(one.uid, one.name, one.generation, one.record) for one in machines]

    def leftovers(self, but: Collection[Uid] = ()) -> Sequence[Uid]:
        return []

    def process_of(self, uid: Uid) -> Process | None:
        guest = self._host.guests.get(uid)
        return guest.process if guest is not None else None

    def alive(self, uid: Uid, process: Process) -> bool:
        guest = self._host.guests.get(uid)
        return guest is not None and guest.process == process

    async def prepare(self, machine: Machine) -> None:
        await self._host.act("prepare")
        size = max(machine.base.virtual_size, machine.disk or 0)
        guest = self._host.guests.setdefault(machine.uid, Guest(machine, size))
        guest.machine = machine
        self._host.effects("prepare", machine.uid)

    async def describe(self, uid: Uid, record: str) -> None:
        await self._host.act("describe")
        guest = self._host.guests.get(uid)
        if guest is not None:
            guest.machine = replace(guest.machine, record=record)

    async def spawn(self, machine: Machine) -> Process:
        guest = self._host.guests.get(machine.uid)
        if guest is None:
            raise StartFailed(f"starting {machine.name}: it was never prepared")
        process = guest.process
        if process is None:
            await self._host.act("spawn")
            guest.machine = machine
            if (taken := self._host.taken(machine.uid, machine.forwards)) is not None:
                raise StartFailed(f"starting {machine.name}: port {taken.host} is taken")
            process = self._host.start(machine.uid)
        self._attached.add(machine.uid)
        self._exits.pop(machine.uid, None)
        return process

    async def attach(self, uid: Uid, process: Process) -> None:
        if self.alive(uid, process):
            self._attached.add(uid)

    def attached(self, uid: Uid) -> bool:
        return uid in self._attached

    def view(self, uid: Uid) -> View:
        guest = self._host.guests.get(uid)
        if guest is None or guest.process is None:
            return View(None)
        return _view(guest.state, guest.frozen, guest.resets.total, guest.resets.in_a_row)

    def exit_of(self, uid: Uid) -> Exit | None:
        return self._exits.get(uid)

    async def resume(self, uid: Uid) -> None:
        await self._host.act("resume")
        guest = self._monitor(uid)
        if guest.state is RunState.INERT:
            guest.answers_at = self._host.clock() + self._host.boot_delay
        guest.state = RunState.RUNNING
        self._host.effects("resume", uid)

    async def pause(self, uid: Uid) -> None:
        await self._host.act("pause")
        self._monitor(uid).state = RunState.PAUSED

    async def set_forwards(self, uid: Uid, wanted: Sequence[Forward]) -> None:
        await self._host.act("set_forwards")
        guest = self._monitor(uid)
        if (taken := self._host.taken(uid, wanted)) is not None:
            raise MonitorError(f"{taken.address}:{taken.host} could not be forwarded: it is taken")
        self._host.forward(uid, tuple(wanted))
        guest.machine = replace(guest.machine, forwards=tuple(wanted))

    async def grow(self, uid: Uid, size: int) -> None:
        await self._host.act("grow")
        guest = self._host.guests[uid]
        guest.disk = max(guest.disk, size)

    async def stop(self, uid: Uid, process: Process, grace: float) -> None:
        await self._host.act("stop")
        guest = self._host.guests.get(uid)
        if guest is None or guest.process != process:
            return
        if guest.ignores_acpi and grace > 0:
            await asyncio.sleep(grace)
        if guest.process == process:
            self._host.effects("stop", uid)
            self._host.end(uid, "stopped")

    async def discard(self, uid: Uid) -> None:
        await self._host.act("discard")
        guest = self._host.guests.get(uid)
        if guest is not None and guest.process is not None:
            raise MonitorError(f"removing the files of {guest.machine.name}: it still runs")
        if guest is not None:
            self._host.effects("discard", uid)
        self._host.guests.pop(uid, None)
        self._attached.discard(uid)
        self._exits.pop(uid, None)

    def _monitor(self, uid: Uid) -> Guest:
        guest = self._host.guests.get(uid)
        if guest is None or guest.process is None or guest.frozen:
            name = guest.machine.name if guest else uid
            raise MonitorError(f"asking the monitor of {name}: it does not answer")
        return guest


class MemoryDoorway:
    """Guests that let everybody in once they have booted."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host

    async def answers(self, uid: Uid, name: Name, port: int, user: str) -> None:
        if not self._host.lets_in(uid):
            raise NotReady(f"knocking at {name}: it does not answer yet")

    async def enter(self, uid: Uid, name: Name, port: int, user: str) -> MemorySession:
        await self._host.act("enter")
        await self.answers(uid, name, port, user)
        return MemorySession(self._host, uid, name)


class MemoryCheckups:
    """Services that serve once their guest has booted, but for what the host was told of them."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host

    async def check(self, uid: Uid, name: Name, ways: Ways, health: HealthSpec) -> None:
        await self._host.act("check")
        if not self._host.lets_in(uid):
            raise NotReady("no answer")
        guest, port = self._host.guests[uid], health.port or 0
        if port in guest.deaf:
            raise NotReady("the guest refuses the connection, or closes it at once")
        status = guest.statuses.get(port, 200)
        if health.check == "http" and status != health.status:
            raise NotReady(f"GET {health.path} was answered with {status}, not {health.status}")

    def forget(self, uid: Uid) -> None:
        pass


class MemoryFacts:
    """What the host says of itself."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host

    @property
    def boot_id(self) -> str:
        return self._host.boot_id

    def boottime(self) -> float:
        return self._host.boottime()

    def listeners(self, of_interest: Collection[int]) -> Sequence[Listener]:
        own = [
            Listener(forward.address, forward.host, guest.process.pid, f"vm {guest.machine.name}")
            if forward.host in of_interest
            else Listener(forward.address, forward.host)
            for guest in self._host.guests.values()
            if guest.process
            for forward in guest.forwards
        ]
        return [*self._host.listening, *own]

    def free_memory(self, promised: Mapping[int, int]) -> int | None:
        most = self._host.memory
        return None if most is None else most - sum(promised.values())

    def free_disk(self) -> int | None:
        return self._host.free_disk


class MemoryHost(MemoryWorld):
    """The world, and the way of every agent to it."""

    def backend(self) -> Backend:
        """A new agent's."""
        return Backend(
            hypervisor=MemoryHypervisor(self),
            images=MemoryImages(self),
            doorway=MemoryDoorway(self),
            checkups=MemoryCheckups(self),
            meter=MemoryMeter(self),
            host=MemoryFacts(self),
        )
