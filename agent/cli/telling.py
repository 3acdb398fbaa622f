"""What an agent tells of itself and its machines while it runs: metrics that are kept, and answers over HTTP."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from agent.cli.measuring import Measuring
from agent.cli.reading import alive_of
from agent.hypervisor.api import Backend
from agent.intent import Clock
from agent.metrics.images import CountedImages
from agent.metrics.poll import Poller
from agent.metrics.tally import Tally
from agent.paths import StatePaths
from agent.record import Pass
from agent.web.control import Control
from state.clock import Moment
from state.ledger import Ledger

Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Telling:
    """`interval`: seconds from one look of the loop to the next at the latest; `listener`: the socket of the answers,
    None for none; `host`: what documents call this host."""

    paths: StatePaths
    host: str
    interval: float
    measuring: Measuring
    listener: socket.socket | None
    tally: Tally = field(default_factory=Tally)
    _last: Moment | None = None

    def counted(self, backend: Backend) -> Backend:
        """The same, which tells of the images that it fetches."""
        return replace(backend, images=CountedImages(backend.images, self.tally.fetched))

    def tasks(self, ledger: Ledger, backend: Backend, clock: Clock, control: Control) -> list[Task]:
        """What has to run beside the loop. Raises StateUnusable."""
        found: list[Task] = []
        poller = None
        self.tally.interval = self.interval
        for run in ledger.runs():
            self.tally.found(run)
        if self.measuring.interval:
            said = self.measuring
            poller = Poller(
                backend.meter, ledger, self.paths.metrics, clock, said.interval, said.keep
            )
            found.append(poller.run)
        if self.listener is not None:
            found.append(self._server(self.listener, poller, clock, control))
        return found

    def passed(self, done: Pass, now: Moment) -> None:
        """The loop has looked."""
        self._last = now
        self.tally.passed(done, now.wall)

    def _server(
        self, listener: socket.socket, poller: Poller | None, clock: Clock, control: Control
    ) -> Task:
        from agent.metrics import export
        from agent.web import public
        from agent.web.gate import Gate, token_of
        from agent.web.views import Views

        views = Views(self.paths, lambda reader: alive_of(reader, os.getpid()))

        def metrics() -> tuple[bytes, str]:
            with views.reading() as reader:
                found, retries = views.status_of(reader), reader.retries().values()
            usage = poller.latest if poller is not None else {}
            return export.page(_version(), found, self.tally, usage, retries), export.CONTENT_TYPE

        names = frozenset({socket.gethostname(), socket.getfqdn(), self.host})
        told = public.Told(
            views,
            metrics,
            stuck=lambda: self._stuck(clock()),
            now=lambda: clock().wall,
            gate=Gate(frozenset(map(str.lower, names)), token_of(self.paths.token)),
        )
        return lambda: public.serve(listener, told, control)

    def _stuck(self, now: Moment) -> str:
        if self._last is None:
            return "the loop has not looked yet"
        away = now.boottime - self._last.boottime
        return f"the loop has not looked for {away:.0f} s" if away > 3 * self.interval + 60 else ""


def _version() -> str:
    from importlib.metadata import version

    return version("holdfast")
