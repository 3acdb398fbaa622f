"""What an agent answers over HTTP, on the address that its operator chose: it tells whoever can reach that, and does
what commands can ask for whoever has its token (`agent.web.gate`).

What is told is read by a thread, as commands read: nobody who asks holds up the loop. What guests and documents say is
told as JSON or shown as text, never as a part of a page, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from agent.errors import BadInput, BadUsage, HoldfastError, StateUnusable
from agent.web import openapi, stream
from agent.web.bounds import Bounded
from agent.web.control import Control
from agent.web.gate import Gate
from agent.web.views import LOGS, Place, Views
from agent.worker import alone
from state.records import LedgerUnreadable
from state.spec.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LAST_ANSWERS = 1.0
"""Seconds that the requests under way get when the agent leaves."""
_PARTS = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    **{
        f"{name}.js": (f"{name}.js", "text/javascript")
        for name in ("page", "pieces", "charts", "hands")
    },
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MOST_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to tell. `metrics` makes a page for Prometheus with its content type; `stuck` says why the loop
    does not go on, empty while it does; `now` is Unix time; `gate` says who may ask."""

    views: Views
    metrics: Callable[[], tuple[bytes, str]]
    stuck: Callable[[], str]
    now: Callable[[], float]
    gate: Gate


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A socket that listens on `ADDR:PORT`. Raises BadUsage and StateUnusable."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isdigit() and int(port) < 65536):
        raise BadUsage(
            f"{address!r} is no address to listen on", hint="write ADDR:PORT, like 127.0.0.1:8080"
        )
    try:
        family, *_, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(where[:2], family=family)
    except OSError as error:
        # What `create_server` raises repeats the address; what the resolver does has a number of its own kind.
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno or 0) if known else error.strerror
        raise StateUnusable(
            f"listening on {address}: {why}", hint="choose another with --listen"
        ) from error
    with listener:
        yield listener


async def serve(listener: socket.socket, told: Told, control: Control) -> None:
    """Answer, for ever."""
    from aiohttp import web

    answers = _Answers(told, control)

    @web.middleware
    async def answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
        bounded.asked(request)
        return await answers.answered(request, handler)

    app = web.Application(middlewares=[answered])
    app.add_routes(
        [
            *(web.get(f"/{name}", partial(_part, name)) for name in _PARTS),
            web.get("/metrics", answers.metrics),
            web.get("/healthz", answers.healthz),
            web.get("/readyz", answers.readyz),
            web.get("/api/v1/openapi.json", answers.openapi),
            web.get("/api/v1/status", answers.status),
            web.get("/api/v1/events", answers.events),
            web.get("/api/v1/usage", answers.usage),
            web.get("/api/v1/metrics/{name}", answers.metrics_of),
            web.get("/api/v1/logs/{name}", answers.log),
            web.get("/api/v1/stream", answers.stream),
            web.post("/api/v1/token", answers.token),
            *control.routes(),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - `setup` has made it
    bounded = Bounded(runner.server)
    try:
        async with await asyncio.get_running_loop().create_server(bounded, sock=listener):
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _part(name: str, _: web.Request) -> web.StreamResponse:
    from aiohttp import web

    file, kind = _PARTS[name]
    text = files("agent.web").joinpath("page", file).read_text()
    return web.Response(text=text, content_type=kind)


class _Answers:
    def __init__(self, told: Told, control: Control) -> None:
        self._told = told
        self._control = control
        self._views = told.views
        self._recent = stream.Recent(told.views.status)

    async def answered(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """What the handler answers, or the error that it met, in one sentence."""
        known = request.match_info.http_exception is None
        changes = known and request.method not in ("GET", "HEAD")
        try:
            refusal = self._told.gate.refusal(request.headers, changes=changes)
        except ValueError as error:
            answer = _refused(400, str(error))
        else:
            if refusal is not None:
                answer = _refused(refusal.status, refusal.why, refusal.hint)
            elif changes:
                answer = await self._control.answered(request, handler)
            else:
                answer = await self._seen(request, handler)
        if answer.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        if not answer.prepared:
            answer.headers.update(_HEADERS)
        return answer

    async def _seen(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        from aiohttp import web

        try:
            return await handler(request)
        except BadInput as error:
            return _refused(404, error.message, error.hint)
        except HoldfastError as error:
            return _refused(409, error.message, error.hint)
        except LedgerUnreadable as error:
            return _refused(503, str(error))
        except ValueError as error:
            return _refused(400, str(error))
        except web.HTTPException as error:
            answer = _refused(error.status, f"{request.method} {request.path}: {error.reason}")
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer

    async def token(self, _: web.Request) -> web.StreamResponse:
        """Who comes here has it."""
        return _json({"ok": True})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        from aiohttp import web

        body, kind = await alone("scrape", self._told.metrics)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def healthz(self, _: web.Request) -> web.StreamResponse:
        stuck = self._told.stuck()
        return _json({"ok": not stuck, "why": stuck}, 503 if stuck else 200)

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        unready = _unready(await self._recent.get())
        return _json({"ok": not unready, "unready": unready}, 503 if unready else 200)

    async def openapi(self, _: web.Request) -> web.StreamResponse:
        return _json(openapi.described())

    async def status(self, _: web.Request) -> web.StreamResponse:
        return _json(await self._recent.get())

    async def events(self, request: web.Request) -> web.StreamResponse:
        after, last = _number(request, "after", 0), _number(request, "last", 100)
        name = request.query.get("name")
        look = partial(self._views.events, after, min(max(last, 1), _MOST_EVENTS), name)
        return _json({"events": await alone("events", look)})

    async def usage(self, _: web.Request) -> web.StreamResponse:
        return _json({"usage": await alone("usage", partial(self._views.usage, self._told.now()))})

    async def metrics_of(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        since = self._ago(parse_duration(request.query.get("since", "1h")))
        found = await alone("metrics", partial(self._views.metrics, name, since))
        return _json({"name": name, "samples": found})

    async def log(self, request: web.Request) -> web.StreamResponse:
        name, log = request.match_info["name"], request.query.get("log", "log")
        if log not in LOGS:
            raise ValueError(f"`log` is one of {', '.join(LOGS)}")
        place = Place(request.query.get("file", ""), _number(request, "offset", 0))
        place, text = await alone("log", partial(self._views.log, name, log, place))
        return _json({"file": place.file, "offset": place.offset, "text": text})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        after = request.headers.get("Last-Event-ID", request.query.get("after", "0"))
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise ValueError("`after` is the id of an event")
        return await stream.told(
            request, _HEADERS, self._recent, self._views.next_events, int(after)
        )

    def _ago(self, seconds: float) -> float:
        return self._told.now() - seconds


def _number(request: web.Request, name: str, default: int) -> int:
    said = request.query.get(name, str(default))
    if not (said.isascii() and said.isdigit() and len(said) < 19):
        raise ValueError(f"`{name}` is a whole number")
    return int(said)


def _unready(looked: dict[str, Any]) -> list[dict[str, str]]:
    """What keeps the host from being as the documents say: a name with its reason, or a document that is held."""
    found = [
        {"name": one["name"], "reason": condition["reason"], "message": condition["message"]}
        for one in looked["items"]
        for condition in one["conditions"]
        if condition["type"] in ("Reconciling", "Stalled") and condition["status"]
    ]
    found += [
        {"name": one["name"] or "", "reason": "Held", "message": one["message"]}
        for one in (*looked["held"], *looked["errors"])
    ]
    # What waits and is there has said so itself.
    told = {one["name"] for one in (*looked["items"], *found)}
    return found + [one for one in looked["waiting"] if one["name"] not in told]


def _refused(status: int, why: str, hint: str = "") -> web.StreamResponse:
    return _json({"error": why, "hint": hint}, status)


def _json(told: dict[str, Any], status: int = 200) -> web.StreamResponse:
    from aiohttp import web

    return web.json_response(told, status=status, dumps=partial(json.dumps, indent=1))
