"""Guests in which the contract of a session is tried: one in memory, one that is a directory of this host, a real one.

An inn lets a test do to a guest what no session offers: break its connections, and reboot it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from agent.guest.ssh import SshDoorway
from agent.hypervisor.api import Doorway, Machine, Session
from agent.hypervisor.memory import MemoryHost, Scripted
from state.ids import Name
from tests.contract.houses import MemoryHouse, Watched, qemu_house
from tests.e2e.steps import started
from tests.e2e.tinyguest import Guest, tiny
from tests.localguest import LocalGuest

KEPT = "/persist/runs"


class Inn(Protocol):
    """One guest that lets us in."""

    root: str
    """What stands before the paths of what its scripts leave."""

    async def enter(self) -> Session:
        """A new session."""

    def script(self, scripted: Scripted) -> bytes:
        """A script that goes so, for the next upload."""

    async def cut(self) -> None:
        """Break every connection."""

    async def reboot(self) -> None:
        """Reboot it, with its disk as it was, and wait until it lets us in again."""


class MemoryInn:
    """A guest in memory."""

    root = ""

    def __init__(self, host: MemoryHost, doorway: Doorway, machine: Machine) -> None:
        self.host, self._doorway, self._machine = host, doorway, machine

    async def enter(self) -> Session:
        return await self._doorway.enter(self._machine.uid, self._machine.name, 0, "root")

    def script(self, scripted: Scripted) -> bytes:
        self.host.scripts[Name(self._machine.name)] = scripted
        return b"a script"

    async def cut(self) -> None:
        self.host.cut(self._machine.uid)

    async def reboot(self) -> None:
        self.host.restart(self._machine.uid)


class LocalInn:
    """A directory of this host."""

    def __init__(self, guest: LocalGuest) -> None:
        self._guest = guest
        self.root = str(guest.home)

    async def enter(self) -> Session:
        return await self._guest.session()

    def script(self, scripted: Scripted) -> bytes:
        return shell_script(scripted, self.root)

    async def cut(self) -> None:
        self._guest.cut()

    async def reboot(self) -> None:
        self._guest.reboot()


class TinyInn:
    """The tiny guest. Its home is in memory, so a link to its disk stands where a home on a disk would have runs."""

    root = ""

    def __init__(self, guest: Guest, doorway: Doorway, port: int) -> None:
        self.guest, self._doorway, self._port = guest, doorway, port

    async def ready(self) -> None:
        await self.guest.ready()
        told = await self.guest.run(f"mkdir -p {KEPT} && ln -s {KEPT} .holdfast")
        assert told == (0, "")

    async def enter(self) -> Session:
        machine = self.guest.machine
        return await self._doorway.enter(machine.uid, machine.name, self._port, "root")

    def script(self, scripted: Scripted) -> bytes:
        return shell_script(scripted, self.root)

    async def cut(self) -> None:
        await self.guest.tell(
            "for p in $(pidof dropbear); do"
            " [ $(cut -d' ' -f4 /proc/$p/stat) = 1 ] || kill -9 $p; done"
        )

    async def reboot(self) -> None:
        booted = await self.guest.run("cat /proc/sys/kernel/random/boot_id")
        await self.guest.tell("reboot -f")
        now = booted
        while now == booted:
            await self.guest.ready()
            with suppress(Exception):  # it is going down
                now = await self.guest.run("cat /proc/sys/kernel/random/boot_id")
        await self.ready()


def shell_script(scripted: Scripted, root: str) -> bytes:
    """The same for a real shell; what it leaves lies below `root`."""
    lines = ["#!/bin/sh"]
    for path, content in scripted.leaves.items():
        lines.append(f"mkdir -p '{root}{Path(path).parent}'")
        lines.append(f"printf '{_octal(content)}' >'{root}{path}'")
    for delay, piece in scripted.output:
        lines.append(f"sleep {delay}")
        lines.append(f"printf '{_octal(piece)}'")
    lines.append(f"sleep {scripted.last}")
    code = scripted.exit_code
    lines.append("exec sleep 100000" if code is None else f"exit {code}")
    return "\n".join(lines).encode()


def _octal(content: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in content)


@asynccontextmanager
async def memory_inn() -> AsyncIterator[MemoryInn]:
    house = MemoryHouse()
    backend = house.host.backend()
    machine = house.machine()
    await backend.hypervisor.open(Watched().on_change)
    await backend.hypervisor.prepare(machine)
    await backend.hypervisor.spawn(machine)
    await backend.hypervisor.resume(machine.uid)
    yield MemoryInn(house.host, backend.doorway, machine)
    await backend.hypervisor.close()


@asynccontextmanager
async def local_inn() -> AsyncIterator[LocalInn]:
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    guest = LocalGuest(root / "home")
    try:
        yield LocalInn(guest)
    finally:
        guest.end()
        shutil.rmtree(root)


@asynccontextmanager
async def tiny_inn() -> AsyncIterator[TinyInn]:
    async with qemu_house() as house:
        hypervisor = house.agent()
        await hypervisor.open(Watched().on_change)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        machine = tiny(house, port)
        await started(hypervisor, machine)
        inn = TinyInn(Guest(house, machine, port), SshDoorway(house.paths), port)
        await inn.ready()
        yield inn
        await hypervisor.close()


INNS: dict[str, Callable[[], AbstractAsyncContextManager[Inn]]] = {
    "memory": memory_inn,
    "local": local_inn,
    "tiny": tiny_inn,
}
