"""Tells the repository what became of its documents: on change, and not more often than a server should be bothered.

Of thousands of names that takes a while to write, so it is done in a thread, as the push is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from agent.errors import HoldfastError
from agent.intent import Clock
from agent.worker import Worker
from state.history import Event
from state.ledger import Ledger
from state.records import PUBLISHED_KEY

EVERY = 30.0
"""Seconds from one push to the next, at least."""
GATHER = 1.0
"""Seconds after a change in which more of the same are likely, such as a VM's beginning and its readiness."""


class Target(Protocol):
    """Where a status is put."""

    @property
    def ref(self) -> str: ...

    def publish(self, files: dict[str, bytes], at: float) -> str:
        """Have these files there, and nothing else; the id of the commit. Raises HoldfastError and OSError."""


class Publisher:
    """`told` is the status of this moment, `shown` writes one for people; both are called in a thread. What came of the
    last push is recorded, and told by `status`."""

    def __init__(  # noqa: PLR0913 - what the agent's parts share
        self,
        target: Target,
        ledger: Ledger,
        clock: Clock,
        told: Callable[[], dict[str, Any]],
        shown: Callable[[dict[str, Any]], str],
        every: float = EVERY,
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._clock = clock
        self._told = told
        self._shown = shown
        self._every = every
        self._changed = asyncio.Event()
        self._last: str | None = None
        self._pushing: asyncio.Future[str | None] | None = None

    def look(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(min(GATHER, self._every))
            self._changed.clear()
            pushed = await self.publish()
            if pushed is False:
                self._changed.set()
            if pushed is not None:
                await asyncio.sleep(self._every)

    async def publish(self) -> bool | None:
        """Push what is the case now; whether that went well, None where it was pushed before."""
        if self._pushing is not None:
            await asyncio.wait([self._pushing])  # it was cut off here, and goes on there
        worker = Worker("status")
        self._pushing = worker.submit(partial(self._push, self._clock().wall))
        worker.leave()
        try:
            commit = await asyncio.shield(self._pushing)
        except (HoldfastError, OSError) as error:
            await self._record(f"pushing the status to {self._target.ref}: {error}")
            return False
        if commit is not None:
            await self._record(None, commit)
        return None if commit is None else True

    def _push(self, at: float) -> str | None:
        """What is the case now, put there; the id of the commit, None where it was put there before."""
        now = _lasting(self._told())
        text = json.dumps(now, indent=1, ensure_ascii=False)
        if text == self._last:
            return None
        files = {"status.json": text.encode(), "STATUS.md": self._shown(now).encode()}
        commit = self._target.publish(files, at)
        self._last = text
        return commit

    async def _record(self, error: str | None, commit: str | None = None) -> None:
        before = json.loads(self._ledger.meta(PUBLISHED_KEY) or "{}")
        after = {"ref": self._target.ref, "error": error}
        after["commit"] = commit or before.get("commit")
        if after == before:
            return
        await self._ledger.free()
        with self._ledger.transaction() as change:
            change.put_meta(PUBLISHED_KEY, json.dumps(after))
            if error is not None and error != before.get("error"):
                change.event(Event(at=self._clock().wall, reason="StatusNotPushed", message=error))


def _lasting(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what differs although nothing happens, and without what came of the push before."""
    agent = status["agent"] | {"pid": None, "status_ref": None}
    if agent["source"] is not None:
        agent["source"] = agent["source"] | {"fetched_at": None}
    pushed = (status["agent"]["status_ref"] or {}).get("error")
    errors = [one for one in status["errors"] if one["message"] != pushed]
    return {**status, "agent": agent, "errors": errors}
