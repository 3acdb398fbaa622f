"""The hosts on which the contract is tried: one with QEMU, one in memory.

A house lets a test do to the world what no hypervisor offers: kill, freeze, and make guests misbehave. A third
implementation joins the contract by adding its house to `HOUSES`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from agent.hypervisor.api import BaseImage, Hypervisor, Machine, Meter, OnChange, RunState
from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.qemu.driver import QemuHypervisor
from agent.hypervisor.qemu.meter import QemuMeter
from agent.hypervisor.qemu.monitor import Timing
from agent.hypervisor.qemu.process import Handle
from agent.paths import StatePaths
from state.ids import Digest, Name, Process, Uid, instance_uid
from tests.bootsectors import write_disk

Guest = Literal["idle", "off", "panic", "obedient"]

DISK = 1 << 20
RUN_AS = 60_900
QUICK = Timing(heartbeat=0.2, question=0.4, silence=1.0, command=5.0, connect=2.0)


class House(Protocol):
    """One host with one state directory."""

    def agent(self) -> Hypervisor:
        """A new agent's hypervisor, not yet opened."""

    def meter(self, agent: Hypervisor) -> Meter:
        """What tells this agent the usage of its machines."""

    def machine(self, name: str = "web", guest: Guest = "idle", **fields: Any) -> Machine:
        """The first generation of `name`, whose guest will do what `guest` says once it runs."""

    def led_astray(self, uid: Uid) -> None:
        """The guest has run for a moment: what it was made to do has happened, or is under way."""

    def kill(self, uid: Uid, process: Process) -> None:
        """End the process as the kernel does when memory is short."""

    def freeze(self, uid: Uid, process: Process, frozen: bool) -> None:
        """Stop the process from doing anything at all, or let it go on."""


def _machine(state_id: str, base: BaseImage, name: str, **fields: Any) -> Machine:
    values: dict[str, Any] = {
        "uid": instance_uid(state_id, "vm", name, 1),
        "name": Name(name),
        "generation": 1,
        "base": base,
        "cpus": 1,
        "memory": 32 << 20,
        "disk": None,
        "accelerator": "tcg",
        "record": '{"name": "' + name + '"}',
    }
    return Machine(**(values | fields))


class QemuHouse:
    """Real QEMUs, with guests that are boot sectors. As root they run as another user."""

    def __init__(self, root: Path, timing: Timing = QUICK) -> None:
        self.paths = StatePaths(root)
        self.timing = timing
        self.state_id = str(uuid.uuid4())
        self._images = root / "images"
        self._images.mkdir()

    def agent(self) -> QemuHypervisor:
        return QemuHypervisor(self.paths, self.state_id, timing=self.timing)

    def meter(self, agent: Hypervisor) -> Meter:
        return QemuMeter(self.paths, lambda uid: agent.view(uid).responsive)

    def machine(self, name: str = "web", guest: str = "idle", **fields: Any) -> Machine:
        path = self._images / guest
        if not path.exists():
            write_disk(path, guest, DISK)  # type: ignore[arg-type]  # the kinds of both
        fields.setdefault("run_as", RUN_AS if os.geteuid() == 0 else None)
        base = BaseImage(path, "raw", DISK, Digest("sha256:" + "0" * 64))
        return _machine(self.state_id, base, name, **fields)

    def led_astray(self, uid: Uid) -> None:
        """Its boot sector does it by itself."""

    def kill(self, uid: Uid, process: Process) -> None:
        self._signal(process, signal.SIGKILL)

    def freeze(self, uid: Uid, process: Process, frozen: bool) -> None:
        self._signal(process, signal.SIGSTOP if frozen else signal.SIGCONT)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        held = Handle.hold(process)
        assert held is not None, "the process that the test wants to signal is gone"
        held.signal(number)
        held.close()

    def sweep(self) -> None:
        """End whatever a test left behind."""
        for found in self.agent().scan():
            if (held := Handle.hold(found.process)) is not None:
                held.signal(signal.SIGKILL)
                while not held.over():
                    pass
                held.reap()
                held.close()


class MemoryHouse:
    """The host in memory."""

    def __init__(self) -> None:
        self.host = MemoryHost()
        self._state_id = str(uuid.uuid4())
        self._guests: dict[Uid, Guest] = {}

    def agent(self) -> Hypervisor:
        return self.host.backend().hypervisor

    def meter(self, agent: Hypervisor) -> Meter:
        return self.host.backend().meter

    def machine(self, name: str = "web", guest: Guest = "idle", **fields: Any) -> Machine:
        base = BaseImage(Path("/memory/base"), "raw", DISK, Digest("sha256:" + "0" * 64))
        machine = _machine(self._state_id, base, name, **fields)
        self._guests[machine.uid] = guest
        return machine

    def led_astray(self, uid: Uid) -> None:
        match self._guests[uid]:
            case "off":
                self.host.guest(uid, RunState.OFF)
            case "panic":
                self.host.guest(uid, RunState.PANICKED)
            case "idle":
                self.host.guests[uid].ignores_acpi = True
            case "obedient":
                pass

    def kill(self, uid: Uid, process: Process) -> None:
        assert self.host.running()[uid] == process
        self.host.kill(uid)

    def freeze(self, uid: Uid, process: Process, frozen: bool) -> None:
        assert self.host.running()[uid] == process
        self.host.freeze(uid, frozen)


@asynccontextmanager
async def qemu_house(timing: Timing = QUICK) -> AsyncIterator[QemuHouse]:
    """A host with QEMU, in a directory whose path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    house = QemuHouse(root, timing)
    try:
        yield house
    finally:
        house.sweep()
        shutil.rmtree(root)


@asynccontextmanager
async def memory_house() -> AsyncIterator[MemoryHouse]:
    """The host in memory."""
    yield MemoryHouse()


HOUSES: dict[str, Callable[[], AbstractAsyncContextManager[House]]] = {
    "memory": memory_house,
    "qemu": qemu_house,
}


class Watched:
    """An agent's ear: every change that it was told of."""

    def __init__(self) -> None:
        self.heard: list[tuple[Uid, str]] = []

    @property
    def on_change(self) -> OnChange:
        return lambda uid, word: self.heard.append((uid, word))
