"""Files and sockets that somebody deletes under a live QEMU: what is told, who suffers, and what mends it."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

NEXT_AGENT = {
    "qmp": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "sockets": ("unresponsive", "Unresponsive", "its monitor does not answer"),
    "pid file": ("running", "Ready", "it answers over SSH"),
    "console.log": ("running", "Ready", "it answers over SSH"),
}
"""What the agent that comes after the deletion says: phase, reason, beginning of the message."""


def delete(place: Site, uid: Any, what: str) -> None:
    files = place.paths.instance(uid)
    if what == "sockets":
        shutil.rmtree(files.sockets)
        return
    named = {"qmp": files.qmp_socket, "pid file": files.pid_file, "console.log": files.console_log}
    named[what].unlink()


def test_a_deleted_file_is_told_harms_nobody_else_and_comes_back_with_the_next_start(
    tiny: Site,
) -> None:
    for name in ("web", "db"):
        tiny.vm(name, more="stop_timeout: 2s")
    with tiny.agent():
        db = tiny.ready("db")
        web = tiny.ready("web")
    for what, (phase, reason, message) in NEXT_AGENT.items():
        with tiny.agent():
            tiny.until(lambda: tiny.item("web")["reason"] == "Ready", "the agent sees to it")
            delete(tiny, web["uid"], what)
            tiny.vm("db", more=f"stop_timeout: 2s\nlabels: {{without: {what}}}")
            tiny.until(lambda: tiny.item("db")["labels"] == {"without": what}, "others go on")  # noqa: B023
            assert tiny.ssh("web", "hostname") == "web\n", "the guest notices nothing"
        with tiny.agent():
            told = tiny.until(
                lambda: (item := tiny.item("web"))["reason"] == reason and item,  # noqa: B023
                f"{what} is missed",
            )
            assert (told["phase"], told["pid"]) == (phase, web["pid"])
            assert told["message"].startswith(message)
            tiny.kill(web["pid"])
            web = tiny.ready("web", restarts=web["restarts"] + 1)
            files = tiny.paths.instance(web["uid"])
            assert files.qmp_socket.is_socket()
            assert files.pid_file.exists()
            assert b"holdfast-guest: ready" in tiny.call("logs", "web").stdout
            assert tiny.item("db")["pid"] == db["pid"]
