"""Edits of what can change under a running guest, one after another: the process is never touched."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.e2e.confinement import listening
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]


def test_no_live_edit_touches_the_process_and_each_does_what_it_says(
    tiny: Site, free_ports: list[int]
) -> None:
    tiny.vm("web")
    first, second = free_ports[:2]
    with tiny.agent():
        before = tiny.ready("web")
        ssh = ("127.0.0.1", before["ssh"]["port"])
        tiny.ssh("web", "(while true; do echo hello | nc -l -p 8000; done) >/dev/null 2>&1 &")

        def edited(lines: str, fields: list[str]) -> dict[str, Any]:
            """Write the document with these lines; the item once the agent has seen to it."""
            digest = tiny.item("web")["spec_digest"]
            tiny.vm("web", more=lines)
            tiny.until(lambda: tiny.item("web")["spec_digest"] != digest, f"{fields} changed")
            tiny.until(lambda: tiny.plan() == [], f"nothing is left to do after {fields}")
            item = tiny.item("web")
            same = ("pid", "uid", "generation", "started_at", "restarts", "ready", "phase", "ssh")
            assert [item[key] for key in same] == [before[key] for key in same], fields
            told = tiny.events("web")[-1]
            assert (told["reason"], all(f in told["message"] for f in fields)) == ("Updated", True)
            return item

        item = edited("labels: {tier: edge}", ["labels"])
        assert item["labels"] == {"tier": "edge"}
        assert edited("", ["labels"])["labels"] == {}

        edited("disk: 1GiB", ["disk"])
        assert tiny.ssh("web", "cat /sys/block/vda/size") == f"{(1 << 30) // 512}\n"

        ports = f"disk: 1GiB\nports: [{{host: {first}, guest: 8000}}]"
        item = edited(ports, ["ports"])
        assert item["ports"] == [{"address": "127.0.0.1", "host": first, "guest": 8000}]
        assert heard(first) == b"hello"
        edited(ports.replace(str(first), str(second)), ["ports"])
        assert heard(second) == b"hello"
        assert listening(before["pid"]) == {ssh, ("127.0.0.1", second)}
        assert edited("disk: 1GiB", ["ports"])["ports"] == []
        assert listening(before["pid"]) == {ssh}

        for line, fields in (
            ("stop_timeout: 7s", ["stop_timeout"]),
            ("restart: never", ["restart"]),
            ("protect: true", ["protect"]),
            ("suspend: true", ["suspend"]),
        ):
            edited(f"disk: 1GiB\n{line}", fields)
            edited("disk: 1GiB", fields)


def heard(port: int) -> bytes:
    """What the guest says there."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        return line.recv(5)
