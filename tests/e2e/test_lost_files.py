"""Files and sockets that somebody deletes under a live QEMU: what is told, who suffers, and what mends it."""

from __future__ import annotations

import shutil

import pytest

from state.ids import Uid
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(500)]

NEXT_AGENT = {
    "qmp": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "sockets": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "pid-file": ("running", "Ready", "it answers over SSH"),
    "console": ("running", "Ready", "it answers over SSH"),
}
"""For each VM, which is named by what it loses: phase, reason and message by the agent that comes after."""
REPLACED = ("qmp", "pid-file")


def test_a_deleted_file_is_told_harms_nobody_else_and_comes_back_with_the_next_start(
    tiny: Site,
) -> None:
    for name in (*NEXT_AGENT, "db"):
        tiny.vm(name, memory="96MiB", more="stop_timeout: 1s")
    with tiny.agent():
        before = {name: tiny.ready(name) for name in (*NEXT_AGENT, "db")}
        delete_under(tiny, {name: item["uid"] for name, item in before.items()})
        tiny.vm("db", memory="96MiB", more="stop_timeout: 1s\nlabels: {tier: edge}")
        tiny.until(lambda: tiny.item("db")["labels"] == {"tier": "edge"}, "others go on")
        for name in NEXT_AGENT:
            assert tiny.ssh(name, "hostname") == f"{name}\n", "the guest notices nothing"
    told = tiny.call("logs", "console")
    assert (told.returncode, told.stdout) == (1, b"")
    assert told.stderr.startswith(b"holdfast: reading the log of console: somebody removed /")
    told = tiny.call("console", "sockets")
    assert (told.returncode, told.stdout) == (1, b"")
    assert told.stderr.startswith(b"holdfast: opening the console of sockets: somebody removed /")

    with tiny.agent():
        for name, (phase, reason, message) in NEXT_AGENT.items():
            item = tiny.until(
                lambda: (item := tiny.item(name))["reason"] == reason and item,  # noqa: B023
                f"of {name} it is told",
            )
            assert (item["phase"], item["pid"]) == (phase, before[name]["pid"])
            assert item["message"].startswith(message)
        for name, old in before.items():
            if name in REPLACED:
                tiny.vm(name, memory="112MiB", more="stop_timeout: 1s")
            elif name != "db":
                tiny.kill(old["pid"])
        for name in NEXT_AGENT:
            replaced = name in REPLACED
            item = tiny.ready(name, generation=1 + replaced, restarts=1 - replaced)
            files = tiny.paths.instance(item["uid"])
            assert files.qmp_socket.is_socket()
            assert files.pid_file.exists()
            assert b"holdfast-guest: ready" in tiny.call("logs", name).stdout
        assert tiny.item("db")["pid"] == before["db"]["pid"]
        assert len(tiny.processes()) == len(before)


def delete_under(place: Site, uids: dict[str, Uid]) -> None:
    files = {name: place.paths.instance(uid) for name, uid in uids.items()}
    files["qmp"].qmp_socket.unlink()
    shutil.rmtree(files["sockets"].sockets)
    files["pid-file"].pid_file.unlink()
    files["console"].console_log.unlink()
