"""Live processes whose system calls the kernel draws out or refuses, and what must then be so."""

from __future__ import annotations

import json

import pytest

from tests.e2e.site import Site
from tests.e2e.tracing import tampered

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]

FORKS = "fork,vfork,clone"
"""How Python starts a process."""


def test_a_quit_that_is_accepted_and_never_done_ends_in_a_kill_before_anything_is_recorded(
    still: Site,
) -> None:
    """QEMU says yes to `quit`, puts its disks in order, and is stopped in its last system call. Sabotage: no
    SIGKILL."""
    still.vm("web", more="stop_timeout: 1s\nimage: deaf")
    calls = still.state.parent / "calls"
    with still.agent():
        pid = still.ready("web")["pid"]
        with tampered(pid, "exit_group", "retval=0:signal=STOP", calls):
            still.delete("web")
            still.until(lambda: "exit_group(0" in calls.read_text(), "it has accepted `quit`", 30)
            still.until(lambda: recorded_or_gone(still), "it was ended", 40)
        assert "Destroyed" in [one["reason"] for one in still.events("web")]


def recorded_or_gone(place: Site) -> bool:
    """Whether the instance is gone, which must not be recorded while its process is there."""
    recorded, running = place.instances(), place.processes()
    assert recorded or not running, "its end was recorded before it came"
    return not recorded


def test_an_agent_whose_host_has_no_memory_for_another_process_harms_nobody_and_goes_on(
    still: Site,
) -> None:
    """Sabotage: end the agent by it."""
    still.vm("web")
    with still.agent() as agent:
        before = still.ready("web")
        with tampered(agent.pid, FORKS, "error=ENOMEM", still.state.parent / "calls"):
            still.vm("db")
            still.until(
                lambda: "Cannot allocate memory" in json.dumps(still.status()), "it is told", 30
            )
            assert agent.poll() is None, still.log()
            still.delete("web")
            still.until(lambda: not still.item("web"), "what needs no new process is done")
        still.ready("db")
        assert before["pid"] not in still.processes()
        assert "Bug" not in still.log()


def test_an_agent_that_gets_no_more_threads_says_so_harms_nobody_and_goes_on(still: Site) -> None:
    """Sabotage: take it for a bug."""
    still.vm("web")
    with still.agent() as agent:
        before = still.ready("web")
        with tampered(agent.pid, "clone3,clone", "error=EAGAIN", still.state.parent / "calls"):
            still.vm("db")
            still.until(lambda: "no thread to spare" in still.log(), "it is told", 30)
            assert agent.poll() is None, still.log()
        still.ready("db")
        after = still.ready("web")
        assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])
        assert "Bug" not in still.log()
