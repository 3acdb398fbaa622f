"""What can be asked of an agent, as HTTP: JSON below /api/v1/, on a Unix socket that only this user can reach.

It turns requests into calls and errors into answers, and decides nothing. The same calls are answered elsewhere for
whoever has the token (`agent.web.public`).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import log, sockets, stock
from agent.errors import BadInput, Blocked, HoldfastError, RetryLater, StateUnusable
from agent.jobs.requests import Requests
from agent.operator import Operator
from agent.worker import alone
from state.ids import Name
from state.observed import HowFar
from state.records import LedgerUnreadable
from state.runs import Run

if TYPE_CHECKING:
    from aiohttp import web

    _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOK_AFTER = 2.0
"""Seconds from one look at the socket's name to the next."""
_TOLD_EVERY = 0.2
"""Seconds from one line on how far a fetch is to the next."""
_LAST_ANSWERS = 1.0
"""Seconds that the requests under way get when the agent leaves."""


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The socket of the API, in place of one that a killed agent left. Whoever connects before `serve` waits for it.
    Raises StateUnusable."""
    tried = f"listening on {path}"
    with ExitStack() as stack:
        try:
            sockets.own_directory(path.parent)
            listener = stack.enter_context(sockets.listening(path))
        except Blocked as error:
            raise StateUnusable(f"{tried}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise StateUnusable(
                f"{tried}: {error.strerror}", hint="see to the directory that it lies in"
            ) from error
        stack.callback(_remove, path)
        yield listener


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


async def serve(listener: socket.socket, control: Control) -> None:
    """Answer, for ever, on a new socket where somebody removes the one that was there. Raises LedgerUnreadable once
    nothing can be recorded any more.

    What it takes to answer, a fifth of what an agent imports, is loaded when somebody asks for the first time."""
    with ExitStack() as anew:
        said = ""
        while True:
            listener = await _knocked_at(listener, control.lost, anew)
            try:
                await alone("loading", partial(import_module, "aiohttp.web"))
                break
            except (ImportError, OSError, RetryLater) as error:  # as while it is being upgraded
                if str(error) != said:
                    said = str(error)
                    log.say("RequestsFailed", f"what answers requests cannot be loaded: {said}")
            await asyncio.sleep(_LOOK_AFTER)
        await _answer(listener, control)


async def _knocked_at(
    listener: socket.socket, lost: asyncio.Future[None], anew: ExitStack
) -> socket.socket:
    """The socket, once somebody has connected to it, or nothing can be recorded any more; another one where somebody
    has removed it before."""
    path = Path(listener.getsockname())
    inode = _inode(path)
    while not lost.done() and not await _connected_within(_LOOK_AFTER, listener):
        if _inode(path) != inode:
            with suppress(StateUnusable):  # the next look may find it mended
                listener = anew.enter_context(listening(path))
                inode = _inode(path)
    return listener


async def _connected_within(seconds: float, listener: socket.socket) -> bool:
    loop, knocked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, knocked.set)
    try:
        async with asyncio.timeout(seconds):
            await knocked.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(listener)
    return True


async def _answer(listener: socket.socket, control: Control) -> None:
    from aiohttp import web

    @web.middleware
    async def answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
        return await control.answered(request, handler)

    lost = control.lost
    app = web.Application(middlewares=[answered])
    app.add_routes([web.get("/api/v1/ping", control.ping), *control.routes()])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS)
    await runner.setup()
    path = Path(listener.getsockname())
    with ExitStack() as sockets_made:
        try:
            site, inode = web.SockSite(runner, listener), _inode(path)
            await site.start()
            while not lost.done():
                await asyncio.wait((lost,), timeout=_LOOK_AFTER)
                if _inode(path) == inode:
                    continue
                with suppress(
                    StateUnusable
                ):  # somebody removed it; the next look may find it mended
                    anew = sockets_made.enter_context(listening(path))
                    await site.stop()
                    site, inode = web.SockSite(runner, anew), _inode(path)
                    await site.start()
            await lost
        finally:
            await runner.cleanup()


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


class Control:
    """The answers. Made in the agent's event loop, and used in it."""

    def __init__(self, requests: Requests, operator: Operator) -> None:
        self._requests = requests
        self._operator = operator
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Holds the LedgerUnreadable that was met, once there is one: the agent must end."""

    def routes(self) -> list[web.RouteDef]:
        """All that changes something."""
        from aiohttp import web

        return [
            web.post("/api/v1/jobs/{name}/rerun", self.rerun),
            web.post("/api/v1/jobs/{name}/cancel", self.cancel),
            web.post("/api/v1/approve", self.approve),
            web.post("/api/v1/suspend", self.suspend),
            web.post("/api/v1/resume", self.resume),
            web.post("/api/v1/reconcile", self.reconcile),
            web.post("/api/v1/prune", self.prune),
            web.post("/api/v1/fetch", self.fetch),
        ]

    async def ping(self, _: web.Request) -> web.StreamResponse:
        return _json({"pid": os.getpid()})

    async def rerun(self, request: web.Request) -> web.StreamResponse:
        return _told(await self._requests.rerun(Name(request.match_info["name"])))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        return _told(await self._requests.cancel(Name(request.match_info["name"])))

    async def approve(self, request: web.Request) -> web.StreamResponse:
        try:
            by = float(request.query.get("by", math.inf))
        except ValueError as error:
            raise Blocked("approving: `by` is no number of seconds") from error
        return _json({"approved": await self._operator.approve(request.query.get("id"), by)})

    async def suspend(self, _: web.Request) -> web.StreamResponse:
        return _json({"changed": await self._operator.suspend()})

    async def resume(self, _: web.Request) -> web.StreamResponse:
        return _json({"changed": await self._operator.resume()})

    async def reconcile(self, _: web.Request) -> web.StreamResponse:
        desired = await self._operator.reconcile()
        source = desired.source
        return _json(
            {
                "source": source.location,
                "commit": source.commit,
                "error": source.error or source.refused,
            }
        )

    async def prune(self, request: web.Request) -> web.StreamResponse:
        said = request.query.get("dry_run", "false")
        if said not in ("true", "false"):
            raise Blocked("removing images: `dry_run` is true or false")
        taken = await self._operator.prune(dry_run=said == "true")
        return _json({"images": [stock.told(one) for one in taken]})

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """A line of JSON now and then on how far it is, and a last one on what came of it. Who leaves wants no more."""
        from aiohttp import web

        images = self._operator.ordered(request.query.getall("image", []))
        far: dict[str, HowFar] = {}
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        fetching = asyncio.ensure_future(self._operator.fetch(images, far.__setitem__))
        try:
            while not fetching.done():
                await asyncio.wait((fetching,), timeout=_TOLD_EVERY)
                await response.write(_line({"far": {key: asdict(one) for key, one in far.items()}}))
            await response.write(_line({"images": [asdict(one) for one in fetching.result()]}))
        except ConnectionError:
            pass
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        return response

    async def answered(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """What the handler answers, or the error that it met, in one sentence."""
        from aiohttp import web

        try:
            return await handler(request)
        except BadInput as error:
            return _refused(404, error)
        except HoldfastError as error:
            return _refused(409, error)
        except web.HTTPException as error:
            what = f"{request.method} {request.path}: {error.reason}"
            return _refused(error.status, HoldfastError(what))
        except LedgerUnreadable as error:
            if not self.lost.done():
                self.lost.set_exception(error)
            return _refused(500, HoldfastError(str(error)))
        except Exception as bug:  # noqa: BLE001 - whoever asks is told, and the agent goes on
            return _refused(500, HoldfastError(f"the agent met a bug of holdfast: {bug!r}"))


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _told(run: Run) -> web.StreamResponse:
    return _json({"name": run.name, "run": run.id, "number": run.number, "phase": run.phase.value})


def _refused(status: int, error: HoldfastError) -> web.StreamResponse:
    return _json({"error": error.message, "hint": error.hint}, status)


def _json(told: dict[str, Any], status: int = 200) -> web.StreamResponse:
    from aiohttp import web

    return web.json_response(told, status=status)
