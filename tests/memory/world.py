"""An agent on a host in memory, with a source that a test edits, for tests that assert on the world it makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.hypervisor.memory import MemoryHost
from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.notify import Manager
from agent.paths import StatePaths
from agent.policy import Policy
from agent.record import Pass
from state.clock import Moment
from state.desired import Desired
from state.ids import Digest, Name, Uid
from state.ledger import Ledger
from state.observed import Instance, RunState
from tests.builders import STATE_ID, desired

DEADLINE = 10.0


class EditedSource:
    """A source whose content a test sets, and which answers once `answers` returns; a file of it is handed over once
    `hands_over` returns."""

    def __init__(self, content: Desired) -> None:
        self.content = content
        self.answers: Callable[[], object] | None = None
        self.asked = False
        self.hands_over: Callable[[], object] = lambda: None
        self.files: dict[str, bytes] = {}

    def attachment(self, path: str, digest: Digest) -> bytes:
        self.hands_over()
        return self.files[path]

    def load(self, now: float) -> Desired:
        if self.answers is not None:
            self.asked = True
            self.answers()
        return self.content


@dataclass
class Lab:
    """One host, one state directory, and as many agents after each other as a test starts."""

    database: Path
    host: MemoryHost = field(default_factory=MemoryHost)
    source: EditedSource = field(default_factory=lambda: EditedSource(desired()))
    passes: list[Pass] = field(default_factory=list)
    told: Callable[[Pass], object] = lambda _: None
    became_ready: list[float] = field(default_factory=list)
    """Seconds from a start to being ready, as agents count them."""
    drain_timeout: float = 0.2
    on_stop: Literal["leave", "shutdown"] = "leave"
    most_memory: int | None = None
    manager: Manager | None = None
    agent: Agent | None = None
    ledger: Ledger | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lab]:
        """An agent runs while the block does; it leaves at the end, finishing what it has begun."""
        agent = self._make()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent.run())
            try:
                yield self
            finally:
                agent.stop()
                await asyncio.wait((task,))
                self._close()

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[Lab]:
        """As `running`, but at the end the agent is cut off wherever it is."""
        agent = self._make()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.wait((task,))
                self._close()

    def _make(self) -> Agent:
        self.ledger = Ledger(self.database)
        backend = self.host.backend()
        store = RunStore(StatePaths(self.database.parent), self.source.attachment)
        world = World(self.source, self.ledger, backend, self.clock, store)
        policy = Policy(
            STATE_ID,
            "tcg",
            run_as=range(61000, 61100),
            memory=self.most_memory,
            drain_timeout=self.drain_timeout,
            on_stop=self.on_stop,
        )
        self.agent = Agent(
            world,
            policy,
            interval=5.0,
            on_pass=self._passed,
            on_ready=lambda _, seconds: self.became_ready.append(seconds),
            manager=self.manager,
        )
        return self.agent

    def _passed(self, done: Pass) -> None:
        self.passes.append(done)
        self.told(done)

    def _close(self) -> None:
        assert self.ledger is not None
        self.ledger.close()
        self.agent = self.ledger = None

    def clock(self) -> Moment:
        return Moment(1_700_000_000.0 + self.host.clock(), self.host.clock(), self.host.boot_id)

    def edit(self, content: Desired) -> None:
        """Change what is wanted, and wake the agent."""
        self.source.content = content
        self.look()

    def look(self) -> None:
        if self.agent is not None:
            self.agent.wake.notify("test")

    def instance(self, name: str = "web") -> Instance:
        """The newest recorded instance of a name."""
        assert self.ledger is not None
        own = [one for one in self.ledger.instances() if one.name == name]
        return max(own, key=lambda one: one.generation)

    def uids(self) -> dict[Name, Uid]:
        """The running machines, by name; asserts that no name runs twice (promise I1). One that is inert does not run:
        it may wait for its predecessor to go."""
        found: dict[Name, Uid] = {}
        for uid, guest in self.host.guests.items():
            if guest.process is not None and guest.state is not RunState.INERT:
                assert guest.machine.name not in found, f"{guest.machine.name} runs twice"
                found[guest.machine.name] = uid
        return found

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the world is as it should be."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.uids()
                await asyncio.sleep(0.002)
        assert condition(), what

    async def settled(self) -> Pass:
        """Wait until a fresh pass has nothing to do and nothing under way; that pass."""
        quiet = {
            "Ready", "Running", "Stopped", "Suspended", "Paused", "Crashed", "GuestPoweredOff",
            "Succeeded", "ScriptFailed", "Cancelled", "InvalidDocument",
        }  # fmt: skip

        def done() -> bool:
            if not self.passes or self.passes[-1].desired is not self.source.content:
                return False
            last = self.passes[-1]
            return not last.plan.fetches and all(
                not step.acts and (step.action == "hold" or getattr(step, "reason", "") in quiet)
                for step in last.plan.steps
            )

        self.passes.clear()
        self.look()
        await self.until(done, "settled")
        return self.passes[-1]
