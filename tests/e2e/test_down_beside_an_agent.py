"""`holdfast down` beside a live agent, and beside one that is in the midst of something."""

from __future__ import annotations

import os

import pytest

from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]


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


def test_down_ends_a_live_agent_and_everything_of_it(still: Site) -> None:
    still.vm("web")
    still.vm("db")
    with still.agent() as agent:
        still.ready("web")
        still.ready("db")
        destroyed(still, "db", "web")
        assert agent.wait(DEADLINE) == 0


def test_down_waits_for_a_replacement_under_way_and_takes_away_both_generations(
    still: Site,
) -> None:
    still.vm("web", more="image: deaf\nstop_timeout: 8s")
    with still.agent() as agent:
        still.ready("web")
        still.vm("web", memory="160MiB", more="image: deaf\nstop_timeout: 8s")
        still.until(lambda: still.item("web")["phase"] == "stopping", "it is being replaced")
        destroyed(still, "web")
        assert agent.wait(DEADLINE) == 0
