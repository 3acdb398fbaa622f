"""The tiny guest on a bare hypervisor: let go, and the way into it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import NotReady
from agent.guest.ssh import SshDoorway, endpoint, session
from agent.hypervisor.api import BaseImage, Machine, SeedContent
from state.ids import Digest
from state.spec.resolved import Forward
from tests.contract.houses import QemuHouse

ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path(os.environ.get("HOLDFAST_TINY_IMAGE", ROOT / ".cache/guests/tiny.qcow2"))
BOOT = 60.0


def tiny(house: QemuHouse, port: int, *, egress: bool = True) -> Machine:
    """A machine of the tiny guest, in from `port`."""
    if not IMAGE.exists():
        pytest.fail(
            f"{IMAGE} is not there: build it with `make guest`, or name one in HOLDFAST_TINY_IMAGE"
        )
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", IMAGE], capture_output=True, check=True
    )
    base = BaseImage(
        IMAGE, "qcow2", json.loads(told.stdout)["virtual-size"], Digest("sha256:" + "0" * 64)
    )
    return replace(
        house.machine(),
        base=base,
        memory=96 << 20,
        seed=SeedContent("root", None),
        forwards=(Forward(port, 22),),
        egress=egress,
    )


class Guest:
    """A tiny guest that was let go, and the way into it."""

    def __init__(self, house: QemuHouse, machine: Machine, port: int) -> None:
        self.machine, self._house, self._port = machine, house, port

    async def ready(self) -> None:
        """Wait until it lets us in."""
        doorway = SshDoorway(self._house.paths)
        async with asyncio.timeout(BOOT):
            while True:
                try:
                    await doorway.answers(self.machine.uid, self.machine.name, self._port, "root")
                except NotReady:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def run(self, command: str) -> tuple[int, str]:
        """Exit status and output of a command in the guest."""
        return await asyncio.to_thread(self._run, command)

    async def tell(self, command: str) -> None:
        """Start what ends the connection."""
        await self.run(f"(sleep 0.2; {command}) </dev/null >/dev/null 2>&1 &")

    def _run(self, command: str) -> tuple[int, str]:
        to = endpoint(self._house.paths, self.machine.name, self._port, "root")
        with session(self._house.paths, self.machine.name, to, 20) as transport:
            channel = transport.open_session(timeout=20)
            channel.settimeout(20)
            channel.set_combine_stderr(True)
            channel.exec_command(command)
            said = b"".join(iter(lambda: channel.recv(4096), b""))
            return channel.recv_exit_status(), said.decode()
