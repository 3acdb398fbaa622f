"""Files and sockets that somebody deletes under a live QEMU: what is told, who suffers, and what mends it."""

from __future__ import annotations

import os
import shutil

import pytest

from state.ids import Uid
from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(500)]

NEXT_AGENT = {
    "qmp": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "sockets": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "pid-file": ("running", "Running", "it runs"),
    "console": ("running", "Running", "it runs"),
}
"""For each VM, which is named by what it loses: phase, reason and message by the agent that comes after."""
REPLACED = ("qmp", "pid-file")


def test_a_deleted_file_is_told_harms_nobody_else_and_comes_back_with_the_next_start(
    still: Site,
) -> None:
    for name in (*NEXT_AGENT, "db"):
        still.vm(name, memory="96MiB", more="stop_timeout: 1s")
    with still.agent():
        before = {name: still.ready(name) for name in (*NEXT_AGENT, "db")}
        delete_under(still, {name: item["uid"] for name, item in before.items()})
        still.vm("db", memory="96MiB", more="stop_timeout: 1s\nlabels: {tier: edge}")
        still.until(lambda: still.item("db")["labels"] == {"tier": "edge"}, "others go on")
        assert set(still.processes()) == {item["pid"] for item in before.values()}
    told = still.call("logs", "console")
    assert (told.returncode, told.stdout) == (1, b"")
    assert told.stderr.startswith(b"holdfast: reading the log of console: somebody removed /")
    told = still.call("console", "sockets")
    assert (told.returncode, told.stdout) == (1, b"")
    assert told.stderr.startswith(b"holdfast: opening the console of sockets: somebody removed /")

    with still.agent():
        for name, (phase, reason, message) in NEXT_AGENT.items():
            item = still.until(
                lambda: (item := still.item(name))["reason"] == reason and item,  # noqa: B023
                f"of {name} it is told",
            )
            assert (item["phase"], item["pid"]) == (phase, before[name]["pid"])
            assert item["message"].startswith(message)
        for name, old in before.items():
            if name in REPLACED:
                still.vm(name, memory="112MiB", more="stop_timeout: 1s")
            elif name != "db":
                still.kill(old["pid"])
        for name in NEXT_AGENT:
            replaced = name in REPLACED
            item = still.ready(name, generation=1 + replaced, restarts=1 - replaced)
            files = still.paths.instance(item["uid"])
            assert files.qmp_socket.is_socket()
            assert files.pid_file.exists()
            still.until(lambda: b"R" in still.call("logs", name).stdout, "its line is heard")  # noqa: B023
        assert still.item("db")["pid"] == before["db"]["pid"]
        assert len(still.processes()) == len(before)


def delete_under(place: Site, uids: dict[str, Uid]) -> None:
    files = {name: place.paths.instance(uid) for name, uid in uids.items()}
    files["qmp"].qmp_socket.unlink()
    shutil.rmtree(files["sockets"].sockets)
    files["pid-file"].pid_file.unlink()
    files["console"].console_log.unlink()


def test_an_instance_directory_that_cannot_be_read_is_one_instances_trouble(still: Site) -> None:
    """Sabotage: let what one of them answers end the look at all."""
    still.vm("web")
    still.vm("db")
    with still.agent():
        web, db = still.ready("web"), still.ready("db")
    mine = still.paths.instance(web["uid"])
    paths = (mine.directory, mine.description, mine.pid_file, mine.disk, mine.console_log)
    still.within = ["strace", "-D", "-f", "-qq", "--detach-on=execve", "-o", os.devnull]
    still.within += [word for path in paths for word in ("-P", str(path))]
    still.within += ["-e", "trace=%file", "-e", "inject=%file:error=EACCES"]
    agent = still.start()
    still.within = []
    try:
        still.vm("app")
        still.ready("app")
        assert still.ready("db")["pid"] == db["pid"]
        assert agent.poll() is None, still.log()
        assert web["pid"] in still.processes()
    finally:
        agent.terminate()
        assert agent.wait(DEADLINE) == 0, still.log()
    with still.agent():
        assert still.ready("web")["pid"] == web["pid"]
