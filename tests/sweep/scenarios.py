"""What an agent is in the midst of when it is killed, and what must be there once the next one has run.

Each is prepared from what the one before left. A machine called `steady` stands by all the while, and nothing may touch
it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from state.ids import Uid
from state.lifecycle import Phase
from state.records import LedgerUnreadable, Reader
from state.runs import Run, RunPhase
from tests.e2e.site import Site
from tests.localguest import LocalGuest

JOB = """\
api: holdfast/v1
kind: job
name: job
runs_on: keyed
retries: {{infrastructure: 5, interrupted: 0, script: 0}}
artifacts: ["/left/*"]
script: |
  #!/bin/sh
  echo {number} >> {begun}
  echo line
  {wait}
  exit {code}
"""


@dataclass
class Ground:
    """One site, and what is expected of it. `guests` are the homes of jobs' guests, which are directories here."""

    site: Site
    guests: Path
    steady: int = 0
    memory: int = 0
    number: int = 0
    images: int = 0
    begun: Path = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.guests / "begun"

    # What is edited

    def other_memory(self) -> None:
        self.memory = 48 if self.memory == 32 else 32
        self.site.vm("web", memory=f"{self.memory}MiB", more="stop_timeout: 0s")

    def without(self) -> None:
        self.memory = 0
        with suppress(FileNotFoundError):
            self.site.delete("web")

    def crashed(self) -> None:
        """Its process dies while no agent runs."""
        for pid in self.site.processes().keys() - {self.steady}:
            self.site.kill(pid)
        self.site.until(lambda: not self.site.processes().keys() - {self.steady}, "it is gone")

    def new_job(self, wait: str = ":") -> None:
        self.number += 1
        text = JOB.format(number=self.number, begun=self.begun, wait=wait, code=self.number % 3)
        self.site.write("job.yaml", text)

    # What is found

    def wrong(self) -> Iterator[str]:
        """What is not as it must be, in words."""
        site = self.site
        processes = site.processes()
        if self.steady not in processes:
            yield "the steady machine was touched"
        instances = site.instances()
        wanted = {"steady", "web"} if self.memory else {"steady"}
        if sorted(one.name for one in instances) != sorted(wanted):
            yield f"recorded are {[(one.name, one.generation, one.phase) for one in instances]}"
        running = {one.process.pid: one.uid for one in instances if one.process}
        if running != processes:
            yield f"recorded as running are {running}, and {processes} run"
        for one in instances:
            if one.phase is not Phase.RUNNING:
                yield f"{one.name} is {one.phase}"
            if one.name == "web" and f'"memory":{self.memory << 20}' not in one.spec:
                yield "web is not what was asked for"
        yield from self._files({one.uid for one in instances})
        yield from self._database()
        yield from self._job()
        if "Traceback" in (log := site.log()):
            yield log[log.index("Traceback") :]

    def _files(self, uids: set[Uid]) -> Iterator[str]:
        paths = self.site.paths
        for what, directory in (("directories", paths.instances), ("sockets", paths.sockets)):
            there = set(os.listdir(directory)) - {paths.api_socket.name}
            if there != uids:
                yield f"{what} of {there ^ uids} are amiss"
        half = [path.name for path in self.site.state.rglob(".*") if path.is_file()]
        if half:
            yield f"half made is {half}"

    def _database(self) -> Iterator[str]:
        with closing(sqlite3.connect(self.site.paths.database)) as database:
            [(said,)] = database.execute("PRAGMA quick_check").fetchall()
            [(open_steps,)] = database.execute(
                "SELECT count(*) FROM steps WHERE ended_at IS NULL"
            ).fetchall()
        if said != "ok":
            yield f"the database: {said}"
        if open_steps:
            yield f"{open_steps} steps are open"

    def _job(self) -> Iterator[str]:
        if not self.number:
            return
        latest = self._runs()[-1:]
        if [run.number for run in latest] != [self.number]:
            yield f"run {self.number} of the job is not the last"
            return
        [run] = latest
        begun = self.begun.read_text().split().count(str(self.number)) if self.begun.exists() else 0
        if begun > 1:
            yield f"the script was begun {begun} times"
        expected = RunPhase.FAILED if self.number % 3 else RunPhase.SUCCEEDED
        honest = run.phase is expected and run.exit_code == self.number % 3 and begun == 1
        # Told to leave, an agent has a run that is cut off end so.
        if not honest and run.phase is not RunPhase.INTERRUPTED:
            yield f"the run is {run.phase} with {run.exit_code}: {run.reason}: {run.message}"

    def _runs(self) -> list[Run]:
        try:
            with closing(Reader.open(self.site.paths.database)) as reader:
                return reader.runs()
        except LedgerUnreadable:
            return []

    def clear_guests(self) -> None:
        """End whatever a script left behind in its guest."""
        for home in self.guests.iterdir():
            if home.is_dir():
                LocalGuest(home).end()
                shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes it, of a ground with or without the machine `web` (`needs`; None: whichever), which is a new one
    each time where `anew` says so. `during` is done to the agent that will be killed, once it has come that far."""

    name: str
    prepare: Callable[[Ground], None]
    needs: bool | None = True
    during: Callable[[Ground, int], None] | None = None
    anew: bool = False


def _told_to_leave(ground: Ground, pid: int) -> None:
    """While the script runs. It may be killed before."""
    number = str(ground.number)

    def far_enough() -> bool:
        begun = ground.begun.exists() and number in ground.begun.read_text().split()
        return begun or not _lives(pid)

    ground.site.until(far_enough, "the script runs")
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _lives(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


SCENARIOS = (
    Scenario("adopt", lambda _: None),
    Scenario("replace", Ground.other_memory),
    # One that crashes again and again is waited with longer and longer.
    Scenario("restart", Ground.crashed, anew=True),
    Scenario("job", Ground.new_job),
    Scenario("drain", lambda ground: ground.new_job("sleep 0.3"), during=_told_to_leave),
    Scenario("create", Ground.other_memory, needs=False),
    Scenario("destroy", Ground.without),
)
"""The first is what every agent does."""
