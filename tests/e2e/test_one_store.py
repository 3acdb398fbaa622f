"""Processes that want the same image in one store: one fetches it, and what a killed one had begun is in no way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable

import pytest

from tests.e2e.site import DEADLINE, Site
from tests.serving import Server, serving

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]

SERVED = """\
api: holdfast/v1
kind: images
name: default
default_label: one
images:
  one: {{source: "{url}", format: raw, nocloud: false}}
  two: {{source: "{url}", format: raw, nocloud: false}}
"""


async def test_an_image_that_its_fetcher_was_killed_over_is_fetched_by_the_next(
    still: Site,
) -> None:
    """Two labels, two agents, and a prune beside them. Sabotage: fetch for each label; leave what
    a killed agent had begun."""
    async with serving(still.image.read_bytes()) as server:
        loop = asyncio.get_running_loop()

        def go_on() -> None:
            loop.call_soon_threadsafe(server.go_on.set)

        await asyncio.to_thread(one_after_the_other, still, server, go_on)


def one_after_the_other(still: Site, server: Server, go_on: Callable[[], None]) -> None:
    still.write("images.yaml", SERVED.format(url=server.url))
    still.vm("web")
    still.vm("db", more="image: two")
    first = still.start()
    still.until(lambda: server.asked, "it is being fetched")
    still.until(lambda: on_their_way(still), "some of it has come")
    late = still.call("run", *still.source(), "--once")
    assert late.returncode == 75, "another agent works on the store"
    pruned = still.call("images prune", "-o", "json")
    assert (pruned.returncode, json.loads(pruned.stdout)) == (0, [])
    assert len(on_their_way(still)) == 1, "one fetch for two labels, and no prune takes it away"
    first.kill()
    assert first.wait(DEADLINE) == -signal.SIGKILL
    assert len(on_their_way(still)) == 1
    with still.agent():
        still.until(lambda: server.asked == 2, "the next one begins anew")
        go_on()
        still.ready("web")
        still.ready("db")
        assert server.asked == 2
        assert on_their_way(still) == []
        [image] = [path for path in still.paths.images.iterdir() if path.suffix == ".raw"]
        assert image.read_bytes() == still.image.read_bytes()


def on_their_way(still: Site) -> list[str]:
    """What has begun to come into the store."""
    return [path.name for path in still.paths.images.glob(".*.part")]
