"""A host with machines that exist in memory: what is there, and what can be done to it from outside.

It outlives an agent, and it can be told to be slow, to fail and to lose things. It knows nothing of the seam; an
agent's way to it is in `host`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.errors import HoldfastError
from agent.hypervisor.api import BaseImage, Machine, OnChange, RunState
from agent.hypervisor.memory.work import Scripted, Work
from agent.hypervisor.resets import Resets
from state.ids import TICKS_PER_SECOND, Digest, Name, Process, Uid
from state.observed import Listener
from state.spec.resolved import Forward


@dataclass
class Guest:
    """One prepared machine of the host, with its process if it has one. `boots` counts its boots, those by its own
    reboots too, `cuts` what broke every connection into it; a connection to one of `deaf` ports is refused, and HTTP
    on a port of `statuses` answers with that status instead of 200."""

    machine: Machine
    disk: int
    boots: int = 0
    process: Process | None = None
    state: RunState = RunState.INERT
    frozen: bool = False
    ignores_acpi: bool = False
    forwards: tuple[Forward, ...] = ()
    answers_at: float = 0.0
    resets: Resets = field(default_factory=Resets)
    cuts: int = 0
    works: dict[str, Work] = field(default_factory=dict)
    deaf: set[int] = field(default_factory=set)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def boot(self) -> str:
        """A word for its boot."""
        return f"{self.boots}"

    def halt(self, now: float) -> None:
        """Its boot is over: nothing in it goes on."""
        self.cuts += 1
        for work in self.works.values():
            if work.begun_at is not None and work.halted_at is None:
                work.halted_at = now


@dataclass
class MemoryWorld:
    """One host. `delays` (seconds) and `failures` (errors, each raised once) are looked up by the name of an
    operation: `prepare`, `describe`, `spawn`, `resume`, `pause`, `stop`, `discard`, `set_forwards`, `grow`, `fetch`,
    `check`, `read`, and `enter`, `upload`, `begin`, `look`, `collect`.

    `boot_delay`: seconds from a guest's start until it answers over SSH. `effects` is told of what an agent has brought
    about for a machine (`prepare`, `resume`), or is about to (`stop`, `discard`); `begins` of each run whose script
    starts. `scripts`: how the scripts go that are
    uploaded into guests of a name.
    """

    boot_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    boot_delay: float = 0.0
    booted_at: float = 0.0
    clock: Callable[[], float] = time.monotonic
    delays: dict[str, float] = field(default_factory=dict)
    failures: dict[str, list[HoldfastError]] = field(default_factory=dict)
    memory: int | None = None
    free_disk: int | None = None
    listening: list[Listener] = field(default_factory=list)
    guests: dict[Uid, Guest] = field(default_factory=dict)
    images: dict[str, BaseImage] = field(default_factory=dict)
    contents: dict[str, Digest] = field(default_factory=dict)
    scripts: dict[Name, Scripted] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    effects: Callable[[str, Uid], None] = lambda _operation, _uid: None
    begins: Callable[[str, Work], None] = lambda _run, _work: None
    _watchers: list[OnChange] = field(default_factory=list)
    _forwarding: dict[int, set[Uid]] = field(default_factory=dict)
    """By port of the host, the machines that have ever had it."""
    _pids: int = 1000

    # What tests, simulations and the curious do to the world

    def kill(self, uid: Uid) -> None:
        """SIGKILL the machine's process."""
        self.end(uid, "killed")

    def guest(self, uid: Uid, state: RunState) -> None:
        """Let the guest turn itself off, panic, or fail a write."""
        guest = self.guests[uid]
        guest.state = state
        if state in (RunState.OFF, RunState.PANICKED):
            guest.halt(self.clock())
        self.changed(uid, f"guest {state}")

    def restart(self, uid: Uid) -> None:
        """Let the guest reboot itself."""
        guest = self.guests[uid]
        guest.halt(self.clock())
        guest.boots += 1
        guest.resets.count(self.clock())
        guest.answers_at = self.clock() + self.boot_delay
        self.changed(uid, "guest reset")

    def cut(self, uid: Uid) -> None:
        """Break every connection into the guest."""
        self.guests[uid].cuts += 1

    def freeze(self, uid: Uid, frozen: bool = True) -> None:
        """SIGSTOP or SIGCONT the process."""
        self.guests[uid].frozen = frozen
        self.changed(uid, "frozen" if frozen else "thawed")

    def reboot(self, boot_id: str | None = None) -> None:
        """Power the host off hard and on again: every process is gone, every disk is kept."""
        self.boot_id = boot_id or str(uuid.uuid4())
        self.booted_at = self.clock()
        for guest in self.guests.values():
            guest.halt(self.clock())
            guest.process = None
            guest.frozen = False

    def forget_agents(self) -> None:
        """Every agent has died without a word."""
        self._watchers.clear()

    def boottime(self) -> float:
        """Seconds since the host was booted."""
        return self.clock() - self.booted_at

    def running(self) -> dict[Uid, Process]:
        """Every live process."""
        return {uid: guest.process for uid, guest in self.guests.items() if guest.process}

    # For an agent's way to it

    def lets_in(self, uid: Uid) -> bool:
        """Whether the guest answers over SSH."""
        guest = self.guests.get(uid)
        return (
            guest is not None
            and guest.process is not None
            and guest.state is RunState.RUNNING
            and not guest.frozen
            and self.clock() >= guest.answers_at
        )

    def script_of(self, name: Name) -> Scripted:
        """How the scripts go in guests of this name."""
        return self.scripts.get(name, Scripted())

    async def act(self, operation: str) -> None:
        """One operation, as slow and as faulty as it was told to be."""
        self.calls[operation] += 1
        if (delay := self.delays.get(operation, 0.0)) > 0:
            await asyncio.sleep(delay)
        if waiting := self.failures.get(operation):
            raise waiting.pop(0)

    def taken(self, uid: Uid, forwards: Iterable[Forward]) -> Forward | None:
        """The first of the forwards whose port another machine has."""
        for mine in forwards:
            for other in self._forwarding.get(mine.host, ()):
                guest = self.guests.get(other)
                if other == uid or guest is None or guest.process is None:
                    continue
                if any(_meet(mine, one) for one in guest.forwards):
                    return mine
        return None

    def forward(self, uid: Uid, forwards: tuple[Forward, ...]) -> None:
        """From now on these lead to the machine."""
        self.guests[uid].forwards = forwards
        for one in forwards:
            self._forwarding.setdefault(one.host, set()).add(uid)

    def start(self, uid: Uid) -> Process:
        self._pids += 1
        guest = self.guests[uid]
        ticks = int(self.boottime() * TICKS_PER_SECOND)
        guest.process = Process(self.boot_id, self._pids, ticks)
        guest.state = RunState.INERT
        self.forward(uid, guest.machine.forwards)
        guest.boots += 1
        guest.resets = Resets()
        return guest.process

    def watch(self, watcher: OnChange) -> None:
        self._watchers.append(watcher)

    def unwatch(self, watcher: OnChange | None) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def end(self, uid: Uid, word: str) -> None:
        self.guests[uid].halt(self.clock())
        self.guests[uid].process = None
        self.guests[uid].frozen = False
        self.changed(uid, word)

    def changed(self, uid: Uid, word: str) -> None:
        for watcher in self._watchers:
            watcher(uid, word)


def _meet(one: Forward, other: Forward) -> bool:
    """Whether a kernel lets one process alone listen for both."""
    everywhere = "0.0.0.0"  # noqa: S104 - compared with, never bound
    same = one.address == other.address or everywhere in (one.address, other.address)
    return one.host == other.host and same
