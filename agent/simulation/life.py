"""One agent of a simulation, from its start to its end, which it may never notice."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.policy import Policy
from agent.simulation.author import Author
from agent.simulation.time import Killed, Stuck, VirtualLoop
from state.desired import Desired
from state.ids import Digest
from state.ledger import Ledger

if TYPE_CHECKING:
    from agent.simulation.history import History

STATE_ID = "5e1f0000-0000-4000-8000-000000000000"
MOST_PASSES, MORE_PASSES = 500, 20
"""Passes, and more for each machine, after which an agent that was given some time is said to go round in circles."""


class _Source:
    """The documents, as an agent asks for them."""

    def __init__(self, author: Author) -> None:
        self._author = author

    def attachment(self, path: str, digest: Digest) -> bytes:
        raise NotImplementedError("no document of a simulation has files")

    def load(self, now: float) -> Desired:
        return self._author.desired()


class Life:
    """One agent's process, from its start to its end."""

    def __init__(self, history: History) -> None:
        """Raises LedgerUnreadable where the database cannot be used."""
        self.ledger = Ledger(history.database, on_event=history.told_of)
        self._history = history
        self.turns = 0
        self.dies_at: int | None = None
        self._stuck_at = 0
        self._loop = VirtualLoop(history.clock, self._turn)
        source = _Source(history.author)
        store = RunStore(history.paths, source.attachment)
        world = World(source, self.ledger, history.host.backend(), history.moment, store)
        names = len(history.author.names)
        # Nobody is there to approve anything.
        policy = Policy(STATE_ID, "tcg", run_as=range(61000, 62000 + names), max_destroy=names + 1)
        self.agent = Agent(world, policy, on_pass=history.passed)
        self._task: asyncio.Task[None] | None = None

    def _turn(self) -> None:
        self.turns += 1
        if self.dies_at is not None and self.turns >= self.dies_at:
            raise Killed
        if self._history.told.passes > self._stuck_at:
            raise Stuck("one pass follows the other, and nothing comes of it")

    def run(self, seconds: float) -> bool:
        """Let the time pass; whether the agent still runs afterwards. Raises Killed and Stuck."""
        more = MOST_PASSES + MORE_PASSES * len(self._history.author.names)
        self._stuck_at = self._history.told.passes + more
        return self._loop.run_until_complete(self._pass(seconds))

    async def _pass(self, seconds: float) -> bool:
        if self._task is None:
            self._task = asyncio.ensure_future(self.agent.run())
        await asyncio.wait((self._task,), timeout=seconds)
        return not self._task.done()

    def look(self) -> None:
        """Wake the agent, as an edit does."""
        self._loop.call_soon(self.agent.wake.notify, "an edit")

    def leave(self) -> None:
        self._loop.call_soon(self.agent.stop)

    def error(self) -> BaseException | None:
        """What ended it, if it was no order."""
        done = self._task is not None and self._task.done() and not self._task.cancelled()
        return self._task.exception() if done and self._task is not None else None

    def bury(self) -> None:
        """Let go of what the kernel lets go of for a process that is gone. Not of what it was doing: taken apart, that
        would do more."""
        self._history.host.forget_agents()
        self.ledger.close()

    def dispose(self) -> None:
        """Cancel what it was doing, and close its loop."""
        self.dies_at, self._stuck_at = None, sys.maxsize
        # What was to end the turn in which it was killed still waits there.
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))
        self._loop.close()
