"""One random history: agents that live and die on one host, while documents change and things go wrong."""

from __future__ import annotations

import hashlib
import os
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent.hypervisor.memory import MemoryHost
from agent.paths import StatePaths
from agent.record import Pass
from agent.simulation.author import Author
from agent.simulation.faults import Faults
from agent.simulation.life import Life
from agent.simulation.promises import Promises, Violation
from agent.simulation.time import Clock, Killed, Stuck
from agent.worker import at_once
from state.clock import Moment
from state.history import Event
from state.ids import Name, Uid
from state.records import LedgerUnreadable

EPOCH = 1_700_000_000.0
"""The wall clock at the beginning, in Unix seconds."""
BOOT_DELAY = 5.0
REST = 60.0
"""Seconds from one look at whether everything has come to rest to the next."""
PATIENCE = 7200.0
"""Seconds, after the last fault, until everything must be as it is wanted: the longest back-offs and the clocks of a
job, several times over."""
PROMPT = 120.0
"""Seconds until a plain vm is ready on a host where nothing but other machines is in trouble."""


@dataclass
class Told:
    """What came of a history. `trace` is the same for the same history."""

    seed: int
    steps: int
    machines: int
    seconds: float = 0.0
    agents: int = 0
    passes: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    trace: str = ""


class History:
    """Everything of one history."""

    def __init__(
        self,
        seed: int,
        steps: int,
        machines: int,
        root: Path,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`root` is an empty directory for the files of the state."""
        self.chance = Random(seed)  # noqa: S311 - the same each time is the point
        self.clock = Clock()
        self.told = Told(seed, steps, machines)
        self.paths = StatePaths(root)
        self.database = self.paths.database
        self.host = MemoryHost(boot_id="boot-0", boot_delay=BOOT_DELAY, clock=self.clock)
        self.author = Author(
            self.chance,
            [Name(f"n{number}") for number in range(machines)],
            [Name(f"j{number}") for number in range(3)],
        )
        self._promises = Promises(self.host, self.clock)
        self._faults = Faults(self.chance, self.host, self._promises)
        self.host.effects = self._effect
        self.host.begins = self._promises.begun
        self._life: Life | None = None
        self._dead: list[Life] = []
        self._first = False
        self._trace = hashlib.sha256()
        self._progress = progress

    def moment(self) -> Moment:
        now = self.clock.now
        return Moment(
            EPOCH + now + self._faults.wall_offset, self.host.boottime(), self.host.boot_id
        )

    def run(self) -> Told:
        """Live it through."""
        try:
            self._live()
        except Exception as bug:  # noqa: BLE001 - a bug is what is looked for
            self._promises.broken("bug", "".join(traceback.format_exception(bug)))
        finally:
            self._faults.disk_is_full(False)
            self._die()
        self.told.seconds = self.clock.now
        self.told.violations = self._promises.violations
        self.told.trace = self._trace.hexdigest()[:16]
        return self.told

    def _live(self) -> None:
        self.author.fill()
        self._edited("the first documents")
        self._pass_time(self.chance.choice([0.5, 5.0, 60.0]))
        for step in range(self.told.steps):
            self._progress(f"step {step + 1} of {self.told.steps}")
            self._happen()
            self._pass_time(self.chance.choice([0.0, 0.05, 0.5, 5.0, 60.0]))
            if self._promises.violations:
                return
        self._others_go_on()
        if not self._promises.violations:
            self._come_to_rest()

    # What happens

    def _happen(self) -> None:
        draw = self.chance.random()
        if draw < 0.4:
            self._edited(self.author.edit())
        elif draw < 0.75:
            self._note(self._faults.strike())
        elif draw < 0.93:
            self._kill_soon()
        elif draw < 0.96:
            self._leave()
        elif draw < 0.98:
            self._note("reboot")
            self._die()
            self._faults.reboot()
        else:
            self._note("lose the database")
            self._die()
            for path in self.database.parent.glob(f"{self.database.name}*"):
                path.unlink()
            self._promises.database_lost()

    def _edited(self, what: str) -> None:
        for name in self.author.job_names:
            if name not in self.author.jobs or what.endswith(f" {name}"):
                self.host.scripts[name] = self.author.script()
        self._promises.wished(self.author.desired())
        self._note(what)
        if self._life is not None:
            self._life.look()

    def _kill_soon(self) -> None:
        self._note("kill the agent")
        if (life := self._alive()) is not None:
            life.dies_at = life.turns + self.chance.choice([1, 5, 20, 100, 400])
            self._edited(self.author.edit())

    def _leave(self) -> None:
        self._note("stop the agent")
        if (life := self._alive()) is not None:
            life.leave()
            if self._advance(life, 600.0):
                self._promises.broken("I6", "an agent that was told to leave did not")
            self._die()

    # Agents

    def _alive(self) -> Life | None:
        """The agent; a new one where there is none. None while it cannot use its database."""
        if self._life is None:
            try:
                self._life = Life(self)
            except LedgerUnreadable:
                return None
            self._promises.opened(self._life.ledger)
            self.told.agents += 1
            self._first = True
        return self._life

    def _pass_time(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while True:
            if (life := self._alive()) is None:
                # As a service manager does, it is tried again.
                self.clock.now += 1.0
            elif not self._advance(life, max(0.0, end - self.clock.now)):
                self._die()
                self.clock.now += 0.1
            if self.clock.now >= end or self._promises.violations:
                return

    def _advance(self, life: Life, seconds: float) -> bool:
        """Let an agent run; whether it still does. A killed one does not, and one that could not write either."""
        try:
            goes_on = life.run(seconds)
        except Killed:
            return False
        except Stuck as stuck:
            self._promises.broken("I6", str(stuck))
            return False
        if (error := life.error()) is not None and not _unwritable(error):
            self._promises.broken("bug", "".join(traceback.format_exception(error)))
        return goes_on

    def _die(self) -> None:
        """The agent's process is gone. What it was doing is kept, and never goes on."""
        if self._life is not None:
            self._life.bury()
            self._dead.append(self._life)
            self._life = None

    def dispose(self) -> None:
        """Take apart what agents that were killed were doing, when it can do nothing to anybody any more."""
        self.host.effects = lambda _operation, _uid: None
        for life in self._dead:
            life.dispose()
        self._dead.clear()

    # What is looked at

    def _effect(self, operation: str, uid: Uid) -> None:
        self._trace.update(f"{self.clock.now:.3f} {operation} {uid}\n".encode())
        self._promises.effect(operation, uid)

    def told_of(self, event: Event) -> None:
        self._trace.update(f"{event.reason} {event.name}\n".encode())
        self._promises.told(event)

    def passed(self, done: Pass) -> None:
        self.told.passes += 1
        if self._first and self._life is not None:
            self._first = False
            self._promises.recovered(self._life.ledger)

    def _others_go_on(self) -> None:
        """A plain vm comes up in time beside machines that are in every kind of trouble."""
        if self._life is not None:
            self._life.dies_at = None
        self._faults.calm()
        self.author.unproven = False
        spec = self.author.probe()
        self._edited("write the probe")
        end = self.clock.now + PROMPT
        while self.clock.now < end and not self._promises.violations:
            self._pass_time(1.0)
            if self._life is not None and any(
                one.name == spec.name and one.ready_at for one in self._life.ledger.instances()
            ):
                return
        self._promises.broken("I6", f"a plain vm was not ready within {PROMPT:g} s beside others")

    def _come_to_rest(self) -> None:
        self._faults.heal()
        self.author.settle()
        self._edited("the last documents")
        desired, end = self.author.desired(), self.clock.now + PATIENCE
        lacking = ["no agent runs"]
        while lacking and self.clock.now < end and not self._promises.violations:
            self._pass_time(REST)
            if self._life is not None:
                lacking = self._promises.at_rest(self._life.ledger, desired)
        for what in lacking[:10]:
            self._promises.broken("I11", what)
        if not lacking and self._life is not None:
            self._is_left_alone(self._life)
            self._promises.jobs(self._life.ledger)
            self._promises.logs(self.paths.runs)

    def _is_left_alone(self, life: Life) -> None:
        def done() -> Counter[str]:
            looks = ("check", "enter", "look")
            calls = Counter({key: n for key, n in self.host.calls.items() if key not in looks})
            return calls + Counter({"rows written": life.ledger.changes})

        before = done()
        self._pass_time(5 * REST)
        if more := done() - before:
            self._promises.broken("I5", f"at rest it went on: {dict(more)}")

    def _note(self, what: str) -> None:
        self._trace.update(f"{self.clock.now:.3f} {what}\n".encode())
        names = {*self.author.names, *self.author.job_names}
        words = [word for word in what.split() if word not in names and not word.isdigit()]
        self.told.happened[" ".join(words).removesuffix(" of")] += 1


def _unwritable(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_unwritable, error.exceptions))
    return isinstance(error, LedgerUnreadable)


def live(
    seed: int, steps: int, machines: int, progress: Callable[[str], None] = lambda _: None
) -> Told:
    """One history in a directory of its own, in memory where the host has such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh directory below it
    within = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="holdfast-", dir=within) as root, at_once():
        history = History(seed, steps, machines, Path(root), progress)
        told = history.run()
        history.dispose()
    return told
