"""Health checks and dependencies on real QEMU: what is ready is what serves."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

SERVE = "mkdir -p /www && echo well >/www/ok && httpd -p 80 -h /www"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_vm_waits_for_the_service_that_it_depends_on_and_outlives_its_failure(tiny: Site) -> None:
    http = "health: {http: {port: 80, path: /ok}, interval: 300ms, timeout: 5s, start_period: 0s}"
    tiny.vm("db", more=f"ports: [{{host: {free_port()}, guest: 80}}]\n{http}")
    tiny.vm("web", more="depends_on: [db]")
    assert tiny.plan() == [("create", "db")]
    with tiny.agent():
        refused = "its health check fails: http 80 /ok: GET /ok was not a"
        item = tiny.until(
            lambda: (one := tiny.item("db")).get("message", "").startswith(refused) and one,
            "the guest is up, and nobody in it listens",
        )
        assert (item["phase"], item["reason"]) == ("running", "Unhealthy")
        assert not item["ready"]
        why = "db is not ready (its health check fails"
        tiny.until(
            lambda: (
                [
                    (one["name"], one["reason"], one["message"].startswith(why))
                    for one in tiny.status()["waiting"]
                ]
                == [("web", "DependsOn", True)]
            ),
            "the next pass says it of web",
        )
        assert len(tiny.processes()) == 1

        console = tiny.paths.instance(item["uid"]).console_log
        tiny.until(lambda: "holdfast-guest: ready" in console.read_text("latin-1"), "it is up")
        tiny.ssh("db", SERVE)
        tiny.ready("db")
        web = tiny.ready("web")
        tiny.ssh("db", "killall httpd")
        tiny.until(lambda: not tiny.item("db")["ready"], "it is seen")
        assert tiny.item("web")["ready"]
        assert tiny.item("web")["pid"] == web["pid"]
        assert tiny.item("db")["restarts"] == 0
        tiny.ssh("db", "httpd -p 80 -h /www")
        tiny.ready("db", pid=item["pid"])
        told = [event["reason"] for event in tiny.events("db") if event["kind"] == "vm"]
        assert [one for one in told if one in ("Ready", "Unhealthy")] == [
            "Unhealthy", "Ready", "Unhealthy", "Ready",
        ]  # fmt: skip
