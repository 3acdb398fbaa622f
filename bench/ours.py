"""holdfast itself, as its user has it: documents that are put into its tree and taken out again."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.hypervisor.qemu.meter import QemuMeter
from bench.agents import Running, running
from bench.keeper import SWEEPS, at_rest, idle, resident, rested
from bench.profile import sampled, told
from bench.start import IMAGES, MEMORY, answered, blank
from state.ids import Process, Uid
from state.lifecycle import Phase
from state.observed import Instance
from state.records import Reader

_DOCUMENT = """\
api: holdfast/v1
kind: vm
name: {name}
memory: {memory}MiB
power: paused
stop_timeout: 0s
"""
_FREELY = ("--max-destroy", "1000")
"""All documents are removed at once, and that is meant."""
_WITHOUT_METRICS = ("--metrics-interval", "0", *_FREELY)


@contextmanager
def kept() -> Iterator[Ours]:
    """holdfast while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        desired = Path(directory) / "desired"
        desired.mkdir()
        blank(desired / "blank.raw")
        (desired / "images.yaml").write_text(IMAGES)
        with running(Path(directory), *_WITHOUT_METRICS) as agent:
            at_rest([agent.pid])
            yield Ours(agent)


class Ours:
    """An agent, with confinement, checks and a ledger that is on disk, as always."""

    name = "holdfast"

    def __init__(self, agent: Running) -> None:
        self._agent = agent
        self._state = agent.state

    def up(self, machines: int) -> float:
        """From the first document that is written until every monitor has answered and the ledger says that all run."""
        begun = time.perf_counter()
        for number in range(machines):
            part = self._agent.desired / ".part"
            part.write_text(_DOCUMENT.format(name=f"vm{number}", memory=MEMORY))
            part.rename(self._agent.desired / f"vm{number}.yaml")
        self._agent.until(lambda: len(os.listdir(self._state.instances)) == machines, 0.002)
        for uid in os.listdir(self._state.instances):
            answered(self._state.instance(Uid(uid)).metrics_socket, self._agent.lives)
        self._agent.until(lambda: self._live() == machines, 0.005)
        return 1000 * (time.perf_counter() - begun)

    def _live(self) -> int:
        return sum(one.phase is Phase.RUNNING and one.process is not None for one in self._known())

    def _known(self) -> list[Instance]:
        reader = Reader.open(self._state.database)
        try:
            return reader.instances()
        finally:
            reader.close()

    def ask(self) -> float:
        return asyncio.run(
            self._asked({one.uid: one.process for one in self._known() if one.process})
        )

    def ask_profiled(self) -> list[str]:
        """Where this process, which asks as an agent's meter does, spends its time with that."""
        lines: list[str] = []
        with told(lines):
            for _ in range(10):
                self.ask()
        return lines

    async def _asked(self, live: dict[Uid, Process]) -> float:
        meter = QemuMeter(self._state, lambda _: True)
        try:
            assert len(await meter.read(live)) == len(live)  # connects
            begun = time.perf_counter()
            for _ in range(SWEEPS):
                found = await meter.read(live)
                assert len([one for one in found.values() if one.disks]) == len(live)
            return 1000 * (time.perf_counter() - begun) / SWEEPS
        finally:
            meter.close()

    def again(self) -> float:
        """From the exec of another agent until it has recorded that it adopted each of them, which it has proven by
        then, and has kept the statistics of each."""
        machines, seen, since = self._left()
        begun = time.perf_counter()
        self._agent.another(*_FREELY)
        self._finds(machines, seen, since)
        return 1000 * (time.perf_counter() - begun)

    def again_profiled(self) -> list[str]:
        """Where the agent spends its time with that, from its first import."""
        machines, seen, since = self._left()
        self._agent.another(*_FREELY, waits=True)
        with sampled(self._agent.pid) as lines:
            self._agent.go()
            self._finds(machines, seen, since)
        return lines

    def _left(self) -> tuple[int, int, float]:
        """How many machines an agent has left behind, its last event, and when that was (Unix seconds)."""
        machines = len(self._known())
        self._agent.leave()
        return machines, self._last_event(), time.time()

    def _finds(self, machines: int, seen: int, since: float) -> None:
        self._agent.until(lambda: self._adopted(seen) == machines, 0.01)
        self._agent.until(lambda: self._measured(since) == machines, 0.005)

    def _measured(self, since: float) -> int:
        """How many machines have statistics that are younger than that."""
        asked = "SELECT count(DISTINCT series) FROM looks WHERE at > ?"
        try:
            where = f"{self._state.metrics.as_uri()}?mode=ro"
            with closing(sqlite3.connect(where, uri=True)) as database:
                return int(database.execute(asked, [since]).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # it is only being made

    def _last_event(self) -> int:
        reader = Reader.open(self._state.database)
        try:
            return max((event.id or 0 for event in reader.events(last=1)), default=0)
        finally:
            reader.close()

    def _adopted(self, after: int) -> int:
        reader = Reader.open(self._state.database)
        try:
            return sum(event.reason == "Adopted" for event in reader.events(after=after))
        finally:
            reader.close()

    def weight(self) -> float:
        return resident([self._agent.pid])

    def idle(self, seconds: float) -> float:
        return idle([self._agent.pid], seconds)

    def idle_profiled(self, seconds: float) -> list[str]:
        rested([self._agent.pid])
        with sampled(self._agent.pid) as lines:
            time.sleep(seconds)
        return lines

    def down(self) -> float:
        taken = self._emptied()
        self._agent.leave()
        self._agent.another(*_WITHOUT_METRICS)
        at_rest([self._agent.pid])
        return taken

    def _emptied(self) -> float:
        """From the first document that is removed until no file of a machine is left and the ledger names none: with
        the second for which an agent does not believe that a document is gone."""
        begun = time.perf_counter()
        for document in self._agent.desired.glob("vm*.yaml"):
            document.unlink()
        self._agent.until(lambda: not os.listdir(self._state.instances), 0.002)
        self._agent.until(lambda: not self._known(), 0.002)
        return 1000 * (time.perf_counter() - begun)

    def down_profiled(self) -> list[str]:
        with sampled(self._agent.pid) as lines:
            self._emptied()
        return lines

    def up_profiled(self, machines: int) -> list[str]:
        with sampled(self._agent.pid) as lines:
            self.up(machines)
        return lines
