"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): what changes, as it changes.

Whoever listens is told the whole status first, then of what is another than it was told, and of each new event of the
ledger, whose id lets a connection that broke go on. One that does not take what it is sent is let go.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.web.views import AT_ONCE
from agent.worker import alone
from state.records import LedgerUnreadable

if TYPE_CHECKING:
    from aiohttp import web

LOOK_AGAIN = 1.0
"""Seconds from one look to the next, whoever asks."""
ALIVE = 15.0
"""Seconds after which something is sent although nothing has changed: a connection that is gone is only seen then."""
TAKE = 10.0
"""Seconds that a listener has to take what it is sent."""
_PARTS = ("agent", "held", "errors", "waiting", "advice")

Look = Callable[[], dict[str, Any]]


class Recent:
    """What a look found, made anew at most once a second."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._found: dict[str, Any] = {}
        self._at = -LOOK_AGAIN
        self._turn = asyncio.Lock()

    async def get(self) -> dict[str, Any]:
        """Not older than a second. Raises what the look does."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if loop.time() - self._at >= LOOK_AGAIN:
                self._found = await alone("status", self._look)
                self._at = loop.time()
            return self._found


async def told(
    request: web.Request,
    headers: Mapping[str, str],
    recent: Recent,
    events: Callable[[int], list[dict[str, Any]]],
    after: int,
) -> web.StreamResponse:
    """Tell until the listener leaves. `after`: the last event that it knows; 0: none. `events`: the next ones after one
    that is known, at most `AT_ONCE`; after 0, the last ones."""
    from aiohttp import web

    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
    response.force_close()
    looked = await recent.get()
    await response.prepare(request)
    try:
        await _send(response, "status", looked)
        silent = 0.0
        while True:
            fresh = await alone("events", partial(events, after))
            for event in fresh:
                after = event["id"]
                await _send(response, "event", event, after)
            looked, before = await recent.get(), looked
            if change := changed(before, looked):
                await _send(response, "change", change)
            if len(fresh) == AT_ONCE:
                continue  # there are more
            silent = 0.0 if fresh or change else silent + LOOK_AGAIN
            if silent >= ALIVE:
                silent = 0.0
                await _write(response, ": still here\n\n")
            await asyncio.sleep(LOOK_AGAIN)
    except (ConnectionError, TimeoutError, LedgerUnreadable):
        return response  # who still listens connects again, and is told what is wrong


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What of a status is another than before; empty for nothing. `items` holds those that changed, whole, and `gone`
    the others' kinds and names that are there no more."""
    if before is after:
        return {}
    known = {(one["kind"], one["name"]): one for one in before["items"]}
    now = {(one["kind"], one["name"]): one for one in after["items"]}
    found: dict[str, Any] = {part: after[part] for part in _PARTS if after[part] != before[part]}
    if items := [one for key, one in now.items() if known.get(key) != one]:
        found["items"] = items
    if gone := [list(key) for key in known.keys() - now.keys()]:
        found["gone"] = sorted(gone)
    return found


async def _send(
    response: web.StreamResponse, kind: str, what: dict[str, Any], number: int | None = None
) -> None:
    head = f"id: {number}\n" if number is not None else ""
    # JSON of one line: what stands in it cannot end the message.
    await _write(response, f"{head}event: {kind}\ndata: {json.dumps(what)}\n\n")


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(TAKE):
        await response.write(text.encode())
