"""QEMUs that are killed in the midst of their guests' writes: disks are whole, and nothing that was synced is lost."""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

import pytest

from agent.hypervisor.qemu.driver import QemuHypervisor
from tests.contract.houses import QemuHouse
from tests.e2e.site import Site
from tests.e2e.steps import run, started, told
from tests.waiting import eventually

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(1 << 32))
"""Of the random moments; a failure prints it."""
KILLS = 10
BOOTS = 3
COUNT_ON = """\
n=$(tail -n 1 /persist/count 2>/dev/null)
while :; do
  n=$((n + 1)); echo $n >>/persist/count; sync /persist/count; echo $n
  dd if=/dev/urandom of=/persist/noise bs=64k count=4 seek=$((n % 64)) conv=notrunc 2>/dev/null
done
"""
"""Says a number once it is on the disk, and begins where the last one on the disk ends."""


async def test_a_disk_whose_qemu_is_killed_while_it_writes_is_whole_and_starts_again(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    """Its guest writes one cluster after the other and never syncs. Sabotage: an overlay with `lazy_refcounts`."""
    print(f"HOLDFAST_SEED={SEED}")
    chance = random.Random(SEED)  # noqa: S311 - moments, no secrets
    machine = house.machine(guest="writer", disk=1 << 30)
    disk = house.paths.instance(machine.uid).disk
    for _ in range(KILLS):
        process = await started(hypervisor, machine)
        enough = chance.randrange(1 << 20, 24 << 20)
        await eventually(lambda: written(process.pid) > enough, "it writes")  # noqa: B023
        house.kill(machine.uid, process)
        await told(hypervisor, machine)
        # 3: all is well, but for clusters that nothing refers to any more, which cost room alone (qemu-img(1)).
        assert run("qemu-img", "check", "-q", "-f", "qcow2", disk) in (0, 3)


def written(pid: int) -> int:
    """Bytes that a process has written so far."""
    counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counts["wchar"])


@pytest.mark.guest
def test_what_a_guest_has_synced_is_there_after_each_kill_in_the_midst_of_its_writes(
    tiny: Site,
) -> None:
    """Sabotage: make a disk anew at a restart."""
    tiny.vm("web")
    said = 0
    with tiny.agent():
        for _ in range(BOOTS):
            pid = tiny.ready("web")["pid"]
            with tiny.open("ssh", "web", "--", COUNT_ON) as counting:
                assert counting.stdout is not None
                first = int(counting.stdout.readline())
                assert first > said, "what it had synced is lost"
                for _ in range(20):
                    said = int(counting.stdout.readline())
                tiny.kill(pid)
                said = max([said, *map(int, counting.stdout.read().split())])
            tiny.until(lambda: tiny.item("web").get("pid") not in (pid, None), "it is back")  # noqa: B023
        assert int(tiny.ssh("web", "tail -n 1 /persist/count")) >= said
