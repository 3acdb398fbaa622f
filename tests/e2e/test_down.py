"""`down` over QEMUs whose agent is gone and whose ledger is lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.hypervisor.api import Machine
from agent.hypervisor.qemu.driver import QemuHypervisor
from state.ids import Uid
from state.records import instance_row
from tests.builders import running, vm
from tests.contract.houses import Guest, QemuHouse
from tests.e2e.steps import started

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]
UID = Uid("11111111-2222-4333-8444-555555555555")


def machine(
    house: QemuHouse, name: str, guest: Guest = "idle", uid: Uid | None = None, grace: float = 0.0
) -> Machine:
    """A machine whose own file tells what it is."""
    made = house.machine(name, guest)
    made = replace(made, uid=uid or made.uid)
    row = running(vm(name, stop_timeout=grace), uid=made.uid, run_as=made.run_as, base=made.base)
    return replace(made, record=json.dumps(instance_row(row, qmp="")))


async def down(house: QemuHouse, *words: str, seconds: float = 60.0) -> tuple[int, str, str]:
    """The exit status, and what was said; raises TimeoutExpired."""
    house.paths.identity.write_text(f"{house.state_id}\n")
    command = [sys.executable, "-m", "agent", "down", "--yes", "--state", str(house.paths.root)]
    told = await asyncio.to_thread(
        subprocess.run,
        [*command, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=seconds,
    )
    return told.returncode, told.stdout, told.stderr


async def test_nothing_is_removed_under_a_machine_that_is_still_there(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    """Sabotage: remove the tree once no name is left in the ledger. A QEMU that it does not know loses its disk."""
    first, second = machine(house, "web"), machine(house, "web", uid=UID)
    await started(hypervisor, first)
    await started(hypervisor, second)
    await hypervisor.close()
    status, said, wrong = await down(house, "--volumes")
    [left] = hypervisor.scan()
    assert (status, said) == (1, "")
    assert wrong == (
        f"holdfast: the QEMU with pid {left.process.pid} could not be destroyed; see"
        f" `holdfast events --state {house.paths.root}`\n"
    )
    assert house.paths.instance(left.uid).disk.exists()
    assert house.paths.database.exists()
    await hypervisor.stop(left.uid, left.process, 0.0)
    await hypervisor.close()
    assert await down(house, "--volumes") == (0, "destroyed: web\n", "")
    assert list(house.paths.root.iterdir()) == []


async def test_every_name_has_its_own_grace(house: QemuHouse, hypervisor: QemuHypervisor) -> None:
    """Sabotage: give all of them the longest. One that ignores its power button then keeps `down` waiting."""
    await started(hypervisor, machine(house, "deaf", "idle", grace=1.0))
    await started(hypervisor, machine(house, "patient", "obedient", grace=3600.0))
    await hypervisor.close()
    assert await down(house) == (0, "destroyed: deaf, patient\n", "")
    assert hypervisor.scan() == []
