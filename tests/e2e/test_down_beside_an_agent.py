"""`holdfast down` beside a live agent, and beside one that is in the midst of something."""

from __future__ import annotations

import os

import pytest

from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

DEAF = "rm -r /etc/acpi"
"""Makes the tiny guest ignore its power button."""


def destroyed(place: Site, *names: str) -> None:
    """`down` says so, and it is so."""
    told = place.call("down", "--yes")
    assert told.returncode == 0, told.stderr.decode()
    assert (told.stdout.decode(), told.stderr) == (f"destroyed: {', '.join(names)}\n", b"")
    assert place.processes() == {}
    assert place.instances() == []
    assert os.listdir(place.paths.instances) == []
    assert not place.paths.sockets.exists()
    assert place.status()["items"] == []


def test_down_ends_a_live_agent_and_everything_of_it(tiny: Site) -> None:
    tiny.vm("web")
    tiny.vm("db")
    with tiny.agent() as agent:
        tiny.ready("web")
        tiny.ready("db")
        destroyed(tiny, "db", "web")
        assert agent.wait(DEADLINE) == 0


def test_down_waits_for_a_replacement_under_way_and_takes_away_both_generations(tiny: Site) -> None:
    tiny.vm("web", more="stop_timeout: 8s")
    with tiny.agent() as agent:
        tiny.ready("web")
        tiny.ssh("web", DEAF)
        tiny.vm("web", memory="160MiB", more="stop_timeout: 8s")
        tiny.until(lambda: tiny.item("web")["phase"] == "stopping", "it is being replaced")
        destroyed(tiny, "web")
        assert agent.wait(DEADLINE) == 0
