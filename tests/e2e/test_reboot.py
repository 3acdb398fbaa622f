"""A reboot of the host: every process is gone, the boot id is another one, and everything comes back.

The boot id is a file that every command of the program sees in the place of the kernel's.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import NO_RETRIES, Jobs
from tests.e2e.site import DEADLINE, Site, Started
from tests.e2e.wrongclock import wrong_clock

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]

YEAR = 365 * 86400


def boot(place: Site, clock: int = 0) -> None:
    """The host comes up, with its wall clock wrong by so many seconds. Skips where no other boot id can be shown."""
    file = place.state.parent / "boot_id"
    file.write_text(f"{uuid.uuid4()}\n")
    within = [
        "unshare", "--mount", "sh", "-c",
        'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"', "sh", str(file),
    ]  # fmt: skip
    tried = subprocess.run([*within, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file can be mounted over another here: {tried.stderr}")
    if clock:
        within += wrong_clock(place.state.parent, clock)
        seen = [*within, sys.executable, "-c", "import time; print(int(time.time()))"]
        told = int(subprocess.run(seen, capture_output=True, text=True, check=True).stdout)
        assert abs(told - time.time() - clock) < 3600  # noqa: TID251 - that it is wrong at all
    place.within = within


def power_off(place: Site, agent: Started) -> None:
    """The host goes down hard."""
    agent.kill()
    agent.wait(DEADLINE)
    for pid in place.processes():
        place.kill(pid)
    place.until(lambda: not place.processes(), "nothing runs")


def items(place: Site) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in place.told()["items"]}


def up(place: Site, *names: str) -> bool:
    if not place.paths.database.exists():
        return False
    told = place.call("status", "-o", "json")
    if told.returncode:
        return False
    found = items(place)
    return all(found.get(name, {}).get("ready") for name in names)


@pytest.mark.parametrize("clock", [0, -20 * YEAR, 10 * YEAR])
def test_every_vm_comes_back_from_its_own_disk_in_order_on_its_port(
    still: Site, free_ports: list[int], clock: int
) -> None:
    """Whatever the wall clock says: a host whose battery is empty begins years ago. Sabotage: believe a recorded pid of
    another boot."""
    names = ("db", "app", "web")
    boot(still)
    still.vm("db", more=f"ports: [{{host: {free_ports[0]}, guest: 80}}]")
    still.vm("app", more="depends_on: [db]")
    still.vm("web", more="depends_on: [app]")
    agent = still.start()
    try:
        still.until(lambda: up(still, *names), "all run", 60)
        before = items(still)
        disks = {
            name: still.paths.instance(one["uid"]).disk.stat().st_ino  # type: ignore[arg-type]
            for name, one in before.items()
        }
    finally:
        power_off(still, agent)
    boot(still, clock)
    assert sorted(still.plan()) == [("restart", "db")], "the others wait for it"
    with still.agent():
        still.until(lambda: up(still, *names), "all are back", 60)
        after = items(still)
        for name in names:
            assert after[name]["uid"] == before[name]["uid"]
            assert after[name]["ports"] == before[name]["ports"]
            assert after[name]["pid"] != before[name]["pid"]
            disk = still.paths.instance(after[name]["uid"]).disk  # type: ignore[arg-type]
            assert disk.stat().st_ino == disks[name]
        restarted = [one["name"] for one in still.events() if one["reason"] == "Restarted"]
        assert restarted == list(names)
        assert len(still.processes()) == len(names)
        assert still.plan() == []


def test_what_failed_before_a_reboot_is_tried_again_though_the_wall_clock_was_set_back(
    still: Site,
) -> None:
    """Sabotage: keep by the wall clock when it is tried again."""
    boot(still)
    image, late = still.state.parent / "still.img", still.state.parent / "late.img"
    still.write("images.yaml", (still.desired / "images.yaml").read_text().replace("deaf", "late"))
    still.vm("web", more="image: late")
    agent = still.start()
    try:
        still.until(lambda: "late.img" in still.log(), "its image cannot be had", 60)
    finally:
        power_off(still, agent)
    late.hardlink_to(image)
    boot(still, -20 * YEAR)
    with still.agent():
        still.until(lambda: up(still, "web"), "it is tried again", 60)


@pytest.mark.guest
def test_a_script_that_was_cut_off_is_interrupted_and_its_vm_is_gone(tiny: Site) -> None:
    boot(tiny)
    jobs = Jobs(tiny)
    jobs.write("tests", "echo begun; sleep 1000", NO_RETRIES)
    agent = tiny.start()
    try:
        jobs.says("tests", "begun")
    finally:
        power_off(tiny, agent)
    boot(tiny)
    with tiny.agent():
        run = jobs.phase("tests", RunPhase.INTERRUPTED)
        assert run.exit_code is None
        tiny.until(lambda: not tiny.instances(), "its VM is gone")
        assert tiny.processes() == {}
        assert jobs.result(run)["phase"] == "interrupted"
