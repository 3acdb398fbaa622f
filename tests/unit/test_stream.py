"""The stream of changes, where the ledger cannot be read any more while somebody listens."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
from aiohttp import web

from agent.web.stream import Recent, told
from agent.web.views import AT_ONCE
from state.records import LedgerUnreadable
from tests.waiting import DEADLINE

LOOKED: dict[str, Any] = {
    "items": [], "agent": {}, "held": [], "errors": [], "waiting": [], "advice": [],
}  # fmt: skip


def looks() -> Iterator[dict[str, Any]]:
    """What is found: everything once, and then nothing can be read."""
    yield LOOKED
    raise LedgerUnreadable("the state database was taken away")


async def test_who_comes_back_late_is_told_of_every_event() -> None:
    """Sabotage: tell the last hundred alone. What happened before them is lost to who has listened on and off."""
    known = [{"id": number} for number in range(1, 251)]

    def after(last: int) -> list[dict[str, Any]]:
        return [one for one in known if one["id"] > last][:AT_ONCE]

    text, bugs = await listened(after, 10)
    assert [int(number) for number in re.findall(r"^id: (\d+)$", text, re.M)] == [*range(11, 251)]
    assert bugs == []


async def test_one_that_can_tell_nothing_more_ends_and_breaks_nothing() -> None:
    """Sabotage: let the error through. It meets an answer that is half sent, as a bug of the server."""
    text, bugs = await listened(lambda _after: [], 0)
    assert text.startswith("event: status\n")
    assert text.count("event: ") == 1
    assert bugs == []


async def listened(
    events: Callable[[int], list[dict[str, Any]]], after: int
) -> tuple[str, list[BaseException]]:
    """What is told until nothing can be read any more, and what the server met."""
    found, bugs = looks(), []

    async def stream(request: web.Request) -> web.StreamResponse:
        try:
            return await told(request, {}, Recent(lambda: next(found)), events, after)
        except BaseException as bug:
            bugs.append(bug)
            raise

    app = web.Application()
    app.add_routes([web.get("/", stream)])
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await web.SockSite(runner, listener).start()
        timeout = aiohttp.ClientTimeout(total=DEADLINE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/") as answer,
        ):
            text = await answer.text()
        await runner.cleanup()
    return text, bugs
