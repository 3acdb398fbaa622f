"""The agent's side of its API: JSON below /api/v1/ on a Unix socket that only this user can reach.

It turns requests into calls and errors into answers, and decides nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import sockets, stock
from agent.errors import BadInput, Blocked, HoldfastError, StateUnusable
from agent.jobs.requests import Requests
from agent.operator import Operator
from state.ids import Name
from state.records import LedgerUnreadable
from state.runs import Run

if TYPE_CHECKING:
    from aiohttp import web

    _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

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


async def serve(listener: socket.socket, requests: Requests, operator: Operator) -> None:
    """Answer, for ever. Raises LedgerUnreadable once nothing can be recorded any more."""
    from aiohttp import web

    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    control = _Control(requests, operator, lost)

    @web.middleware
    async def answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
        return await control.answered(request, handler)

    app = web.Application(middlewares=[answered])
    app.add_routes(
        [
            web.get("/api/v1/ping", control.ping),
            web.post("/api/v1/jobs/{name}/rerun", control.rerun),
            web.post("/api/v1/jobs/{name}/cancel", control.cancel),
            web.post("/api/v1/approve", control.approve),
            web.post("/api/v1/suspend", control.suspend),
            web.post("/api/v1/resume", control.resume),
            web.post("/api/v1/reconcile", control.reconcile),
            web.post("/api/v1/prune", control.prune),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await lost
    finally:
        await runner.cleanup()


class _Control:
    """The answers. A ledger that is lost is told to `lost`: the agent must end."""

    def __init__(self, requests: Requests, operator: Operator, lost: asyncio.Future[None]) -> None:
        self._requests = requests
        self._operator = operator
        self._lost = lost

    async def ping(self, _: web.Request) -> web.StreamResponse:
        return _json({"pid": os.getpid()})

    async def rerun(self, request: web.Request) -> web.StreamResponse:
        return _told(await self._requests.rerun(Name(request.match_info["name"])))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        return _told(await self._requests.cancel(Name(request.match_info["name"])))

    async def approve(self, request: web.Request) -> web.StreamResponse:
        return _json({"approved": await self._operator.approve(request.query.get("id"))})

    async def suspend(self, _: web.Request) -> web.StreamResponse:
        return _json({"changed": await self._operator.suspend()})

    async def resume(self, _: web.Request) -> web.StreamResponse:
        return _json({"changed": await self._operator.resume()})

    async def reconcile(self, _: web.Request) -> web.StreamResponse:
        desired = await self._operator.reconcile()
        source = desired.source if desired is not None else None
        return _json(
            {
                "source": source.location if source else None,
                "commit": source.commit if source else None,
                "error": (source.error or source.refused) if source else None,
            }
        )

    async def prune(self, request: web.Request) -> web.StreamResponse:
        taken = await self._operator.prune(dry_run="dry_run" in request.query)
        return _json({"images": [stock.told(one) for one in taken]})

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
            if not self._lost.done():
                self._lost.set_exception(error)
            return _refused(500, HoldfastError(str(error)))
        except Exception as bug:  # noqa: BLE001 - whoever asks is told, and the agent goes on
            return _refused(500, HoldfastError(f"the agent met a bug of holdfast: {bug!r}"))


def _told(run: Run) -> web.StreamResponse:
    return _json({"name": run.name, "run": run.id, "number": run.number, "phase": run.phase.value})


def _refused(status: int, error: HoldfastError) -> web.StreamResponse:
    return _json({"error": error.message, "hint": error.hint}, status)


def _json(told: dict[str, Any], status: int = 200) -> web.StreamResponse:
    from aiohttp import web

    return web.json_response(told, status=status)
