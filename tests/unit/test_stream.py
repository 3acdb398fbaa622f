"""The stream of changes, where the ledger cannot be read any more while somebody listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import aiohttp
from aiohttp import web

from agent.web.stream import Recent, told
from state.records import LedgerUnreadable
from tests.waiting import DEADLINE

LOOKED: dict[str, Any] = {
    "items": [], "agent": {}, "held": [], "errors": [], "waiting": [], "advice": [],
}  # fmt: skip


def looks() -> Iterator[dict[str, Any]]:
    """What is found: everything once, and then nothing can be read."""
    yield LOOKED
    raise LedgerUnreadable("the state database was taken away")


async def test_one_that_can_tell_nothing_more_ends_and_breaks_nothing() -> None:
    """Sabotage: let the error through. It meets an answer that is half sent, as a bug of the server."""
    found, bugs = looks(), []

    async def stream(request: web.Request) -> web.StreamResponse:
        try:
            return await told(request, {}, Recent(lambda: next(found)), lambda _after, _last: [], 0)
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
    assert text.startswith("event: status\n")
    assert text.count("event: ") == 1
    assert bugs == []
