"""When a status is published, and what of it: over hours that take no time, to a server that only counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.errors import RetryLater
from agent.publisher import EVERY, GATHER, Publisher
from agent.worker import at_once
from state.ledger import Ledger
from tests import virtual
from tests.builders import moment

REF = "refs/holdfast/status/here"
AWAY = "it is away"


class Server:
    """Takes a status, or is away; knows when it was asked."""

    ref = REF

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.has: list[Any] = []
        self.is_away = False

    def publish(self, files: dict[str, bytes], at: float) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if self.is_away:
            raise RetryLater(AWAY)
        self.has.append(json.loads(files["status.json"]))
        return f"{len(self.has):040}"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db")) as opened:
        yield opened


def status(number: int, *errors: str, pushed: str | None = None) -> dict[str, Any]:
    """A status of which something has changed; `pushed` is what is said of the last push."""
    return {
        "agent": {"source": None, "status_ref": {"error": pushed}, "pid": 1},
        "items": [number],
        "errors": [{"message": message} for message in errors],
    }


async def changing(publisher: Publisher, told: list[dict[str, Any]], seconds: int) -> None:
    """Let something change every second for a while, and nothing for as long again."""
    publishing = asyncio.ensure_future(publisher.run())
    for second in range(seconds):
        told.append(status(second))
        publisher.look()
        await asyncio.sleep(1.0)
    await asyncio.sleep(seconds)
    publishing.cancel()
    await asyncio.wait((publishing,))


@pytest.mark.parametrize("away", [False, True])
def test_a_server_is_asked_soon_and_then_once_in_a_while(ledger: Ledger, away: bool) -> None:
    """Sabotage: push each change, or try again at once where a server is away."""
    server, told = Server(), [status(0)]
    server.is_away = away
    publisher = Publisher(server, ledger, moment, lambda: told[-1], str)
    with at_once():
        virtual.run(changing(publisher, told, 600))
    assert server.asked[0] < 2.0
    gaps = [later - sooner for sooner, later in pairwise(server.asked)]
    assert min(gaps) >= EVERY
    assert max(gaps) < 2 * EVERY
    if away:
        assert server.asked[-1] > 1200 - 2 * EVERY, "it is tried as long as it takes"
    else:
        assert server.has[-1]["items"] == [599], "the last word is told"
        assert server.asked[-1] < 600 + 2 * EVERY, "and then there is nothing to tell"


def test_what_changes_together_is_told_together(ledger: Ledger) -> None:
    """Sabotage: push at once. A VM's beginning is told, and its readiness half a minute later."""
    server, told = Server(), [status(0)]
    publisher = Publisher(server, ledger, moment, lambda: told[-1], str)

    async def one_after_the_other() -> None:
        publishing = asyncio.ensure_future(publisher.run())
        for number in range(3):
            told.append(status(number))
            publisher.look()
            await asyncio.sleep(GATHER / 4)
        await asyncio.sleep(EVERY / 2)
        publishing.cancel()
        await asyncio.wait((publishing,))

    with at_once():
        virtual.run(one_after_the_other())
    assert [one["items"] for one in server.has] == [[2]]


def test_what_came_of_a_push_is_nothing_to_push(ledger: Ledger) -> None:
    """Sabotage: publish it. It differs after each push, and so there is another, for ever."""
    server = Server()
    told = status(0, "a document is broken")
    publisher = Publisher(server, ledger, moment, lambda: told, str)

    async def twice() -> list[bool | None]:
        nonlocal told
        before = await publisher.publish()
        error = f"pushing the status to {REF}: {AWAY}"
        told = status(0, "a document is broken", error, pushed=error)
        return [before, await publisher.publish()]

    with at_once():
        assert virtual.run(twice()) == [True, None]
    [said] = server.has
    assert [one["message"] for one in said["errors"]] == ["a document is broken"]
