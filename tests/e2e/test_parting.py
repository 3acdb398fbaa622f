"""What becomes of VMs when their agent leaves: they run on, or go down with it and come back with the next one."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

SHUTDOWN = ("--on-stop", "shutdown")


def disks(site: Site) -> dict[str, int]:
    """The file that each VM's disk is, by name."""
    return {one.name: site.paths.instance(one.uid).disk.stat().st_ino for one in site.instances()}


def come_back(site: Site, before: dict[str, int]) -> None:
    """Nothing runs; the next agent starts each from its own disk, and nobody is blamed."""
    assert site.processes() == {}
    assert {one["phase"] for one in site.status()["items"]} == {"stopped"}
    with site.agent():
        for name in before:
            site.ready(name)
        assert disks(site) == before
    assert "Crashed" not in site.log()


def test_vms_go_down_with_an_agent_that_was_told_so(still: Site) -> None:
    """Sabotage: leave without a word to them, as by default."""
    still.vm("db")
    still.vm("web", more="depends_on: [db]")
    with still.agent(*SHUTDOWN):
        still.ready("web")
        before = disks(still)
    told = [one["name"] for one in still.events() if one["reason"] == "Stopped"]
    assert told == ["web", "db"]
    come_back(still, before)


def test_stop_lets_the_agent_leave_and_waits_for_that(still: Site) -> None:
    still.vm("web")
    agent = still.start()
    pid = still.ready("web")["pid"]
    told = still.call("stop")
    assert (told.returncode, told.stdout) == (0, b"the agent has left\n"), told.stderr
    assert agent.wait(DEADLINE) == 0
    assert list(still.processes()) == [pid], "VMs run on"
    assert still.call("stop").stdout == b"no agent was running\n"
    assert list(still.processes()) == [pid]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("readable", [True, False])
def test_stop_powers_vms_down_be_there_an_agent_and_a_ledger_or_not(
    still: Site, killed: bool, readable: bool
) -> None:
    still.vm("web")
    still.vm("deaf", more="image: deaf\nstop_timeout: 1s")
    agent = still.start()
    for name in ("web", "deaf"):
        still.ready(name)
    before = disks(still)
    if killed:
        agent.send_signal(signal.SIGKILL)
        agent.wait(DEADLINE)
    if not readable:
        still.paths.database.unlink()
        still.paths.database.write_bytes(b"no database\n" * 1000)
    told = still.call("stop", *SHUTDOWN)
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.endswith(b"no VM runs\n")
    # An agent that sees before it is told that its ledger was taken away leaves with 1.
    left = {-signal.SIGKILL} if killed else {0} if readable else {0, 1}
    assert agent.wait(DEADLINE) in left
    come_back(still, before)


def test_what_is_destroyed_is_not_powered_down_before(still: Site) -> None:
    """Sabotage: tell the agent to leave as ever. It takes its VMs down one after the other, for nothing."""
    still.vm("web")
    agent = still.start(*SHUTDOWN)
    still.ready("web")
    assert still.call("down", "--yes").stdout == b"destroyed: web\n"
    assert agent.wait(DEADLINE) == 0
    assert "Stopped" not in {one["reason"] for one in still.events()}


def test_stop_leaves_vms_where_that_is_said(still: Site) -> None:
    still.vm("web")
    agent = still.start(*SHUTDOWN)
    pid = still.ready("web")["pid"]
    told = still.call("stop", "--on-stop", "leave")
    assert (told.returncode, told.stdout) == (0, b"the agent has left\n"), told.stderr
    assert agent.wait(DEADLINE) == 0
    assert list(still.processes()) == [pid]


def test_stop_where_there_is_no_state_says_so(still: Site) -> None:
    told = still.call("stop")
    assert told.returncode == 1
    assert b"reading the state directory" in told.stderr
    assert not still.state.exists()
