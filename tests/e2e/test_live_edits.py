"""Edits of what can change under a running guest, one after another: the process is never touched."""

from __future__ import annotations

import socket

import pytest

from state.observed import Instance
from tests.e2e.confinement import listening
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]


def test_no_live_edit_touches_the_process_and_each_does_what_it_says(
    tiny: Site, free_ports: list[int]
) -> None:
    tiny.vm("web")
    first, second = free_ports[:2]
    edits: list[str] = []
    with tiny.agent():
        before = tiny.ready("web")
        ssh = ("127.0.0.1", before["ssh"]["port"])
        tiny.ssh("web", "(while true; do echo hello | nc -l -p 8000; done) >/dev/null 2>&1 &")

        def edited(lines: str, said: str) -> None:
            """Write the document with these lines, and wait until the agent has seen to it."""
            [old] = tiny.instances()
            tiny.vm("web", more=lines)
            new: Instance = tiny.until(
                lambda: (one := tiny.instances()[0]).spec_digest != old.spec_digest and one, said
            )
            same = ("process", "uid", "generation", "started_at", "restarts", "ready_at", "phase")
            assert [getattr(new, key) for key in same] == [getattr(old, key) for key in same], said
            edits.append(said)

        edited("labels: {tier: edge}", "labels {} -> {tier: edge}")
        assert tiny.item("web")["labels"] == {"tier": "edge"}
        edited("", "labels {tier: edge} -> {}")

        edited("disk: 1GiB", "disk the image's size -> 1GiB")
        assert tiny.ssh("web", "cat /sys/block/vda/size") == f"{(1 << 30) // 512}\n"

        ports = f"disk: 1GiB\nports: [{{host: {first}, guest: 8000}}]"
        edited(ports, "ports ")
        assert tiny.item("web")["ports"] == [{"address": "127.0.0.1", "host": first, "guest": 8000}]
        assert heard(tiny, first) == b"hello"
        edited(ports.replace(str(first), str(second)), "ports ")
        assert heard(tiny, second) == b"hello"
        assert listening(before["pid"]) == {ssh, ("127.0.0.1", second)}
        edited("disk: 1GiB", "ports ")
        assert listening(before["pid"]) == {ssh}

        for key, was, value in (
            ("stop_timeout", "10s", "7s"),
            ("restart", "always", "never"),
            ("protect", "false", "true"),
            ("suspend", "false", "true"),
        ):
            edited(f"disk: 1GiB\n{key}: {value}", f"{key} {was} -> {value}")
            edited("disk: 1GiB", f"{key} {value} -> {was}")
        after = tiny.item("web")
        same = ("pid", "uid", "started_at", "restarts", "ready", "phase", "ssh")
        assert [after[key] for key in same] == [before[key] for key in same]
        assert tiny.plan() == []
        told = [one["message"] for one in tiny.events("web") if one["reason"] == "Updated"]
        assert len(told) == len(edits)
        assert [one[: len(edit)] for one, edit in zip(told, edits, strict=True)] == edits


def heard(site: Site, port: int) -> bytes:
    """What the guest says there, which between two clients listens for a moment to nobody."""

    def said() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
            return line.recv(5)

    words: bytes = site.until(said, f"the guest answers on port {port}")
    return words
