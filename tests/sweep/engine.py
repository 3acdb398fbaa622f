"""Runs agents in forks of this process: one that dies at a line, and one that makes it good."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import agent.cli
from agent.cli import compose
from agent.config import Settings
from agent.guest.session import GuestSession
from agent.hypervisor.api import Backend
from agent.paths import StatePaths
from state.ids import Name, Uid
from tests.bootsectors import write_disk
from tests.e2e.site import STILL_IMAGES, inhabited
from tests.localguest import LocalGuest
from tests.sweep import tracing
from tests.sweep.scenarios import SCENARIOS, Ground, Scenario
from tests.sweep.tracing import Line
from tests.zygote import import_everything

Point = tuple[Scenario, Line]

DEADLINE = 60.0
"""Seconds for any agent of a sweep."""
_FAILED = 99


Share = tuple[int, int]
"""Which of how many parts of all points: each part may be swept in a process of its own."""
ALL: Share = (0, 1)


def falls_to(share: Share, point: object) -> bool:
    """Whether a point is in the share, whatever else was found beside it."""
    part, parts = share
    return zlib.crc32(repr(point).encode()) % parts == part


@dataclass
class Told:
    """What came of a sweep."""

    lines: Counter[str] = field(default_factory=Counter)
    points: int = 0
    unreached: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


class LocalDoorway:
    """Lets in to guests that are directories of this host, one for each machine."""

    def __init__(self, guests: Path) -> None:
        self._guests = guests

    async def answers(self, uid: Uid, name: Name, port: int, user: str) -> None:
        """At once."""

    async def enter(self, uid: Uid, name: Name, port: int, user: str) -> GuestSession:
        return await LocalGuest(self._guests / uid).session()


@contextmanager
def _ground() -> Iterator[Ground]:
    """A site with nothing on it."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    write_disk(root / "still.img", "obedient", 1 << 20)
    write_disk(root / "deaf.img", "idle", 1 << 20)
    (root / "guests").mkdir()
    try:
        with inhabited(root, root / "still.img", "root") as site:
            images = STILL_IMAGES.format(root=root)
            keyed = f'  keyed: {{source: "{root}/still.img", format: raw}}\n'
            site.write("images.yaml", images + keyed)
            made = Ground(site, root / "guests")
            try:
                yield made
            finally:
                made.clear_guests()
    finally:
        shutil.rmtree(root)


@contextmanager
def inhabited_ground() -> Iterator[Ground]:
    """A site with one machine on it, which nothing that is done to the others may touch."""
    import_everything()
    with _ground() as here:
        here.site.vm("steady", memory="32MiB", more="stop_timeout: 0s")
        assert unharmed(here) == 0, here.site.log()
        [here.steady] = here.site.processes()
        yield here


def unharmed(here: Ground) -> int:
    """The exit status of an agent that leaves when all has come to rest."""
    return _ended(_forked(here, None))


def sweep(
    sample: int | None,
    seed: int,
    share: Share = ALL,
    told: Callable[[str], None] = lambda _: None,
) -> Told:
    """Kill at every line of the share, or at `sample` of them; `seed` says which, and in the midst of what."""
    began, found = time.monotonic(), Told()
    with inhabited_ground() as here:
        chance = random.Random(seed)  # noqa: S311 - the same each time is the point
        points = _points(here, chance)
        found.lines = Counter(scenario.name for scenario, _ in points)
        points = [point for point in points if falls_to(share, point[1])]
        if sample is not None:
            points = chance.sample(points, min(sample, len(points)))
        for scenario, line in _in_order(points):
            _kill_at(here, scenario, line, found)
            told(f"{found.points} of {len(points)} points, {len(found.violations)} violations")
    found.seconds = time.monotonic() - began
    return found


def _points(here: Ground, chance: random.Random) -> list[Point]:
    """Every line that an agent comes to, in the midst of one of the things that lead there."""
    leads: dict[Line, list[Scenario]] = {}
    for scenario in SCENARIOS:
        for line in _lines_of(here, scenario):
            leads.setdefault(line, []).append(scenario)
        if wrong := list(here.wrong()):
            raise AssertionError(f"{scenario.name} goes wrong unharmed: {wrong}")
    return [(chance.choice(scenarios), line) for line, scenarios in leads.items()]


def _in_order(points: list[Point]) -> list[Point]:
    """So that most find what they need in what the one before has left: creations and destructions by turns."""
    by_name: dict[str, list[Point]] = {}
    for point in points:
        by_name.setdefault(point[0].name, []).append(point)
    turns = zip_longest(by_name.pop("destroy", []), by_name.pop("create", []))
    rest = [point for own in by_name.values() for point in own]
    return [*rest, *(point for pair in turns for point in pair if point is not None)]


def _kill_at(here: Ground, scenario: Scenario, line: Line, found: Told) -> None:
    _ready_for(here, scenario)
    status = _ended(_forked(here, line), scenario, here)
    found.points += 1
    found.unreached += status != -signal.SIGKILL
    again = unharmed(here)
    where = f"{scenario.name} at {line[0].removeprefix(f'{tracing.ROOT}/')}:{line[1]}"
    if again not in (0, 1):
        found.violations.append(f"{where}: the next agent ended with {again}")
    found.violations += [f"{where}: {what}" for what in here.wrong()]
    here.clear_guests()
    (here.site.state.parent / "agent.log").unlink()


def _ready_for(here: Ground, scenario: Scenario) -> None:
    missing = scenario.needs is not None and (here.memory > 0) is not scenario.needs
    if missing or scenario.anew:
        here.other_memory() if scenario.needs else here.without()
        assert unharmed(here) in (0, 1), here.site.log()
    scenario.prepare(here)


def _lines_of(here: Ground, scenario: Scenario) -> list[Line]:
    """Which lines an agent comes to that does it unharmed."""
    _ready_for(here, scenario)
    into = here.site.state.parent / "lines"
    _ended(_forked(here, None, into), scenario, here)
    return [(file, int(line)) for file, line in map(str.split, into.read_text().splitlines())]


def _forked(here: Ground, line: Line | None, noted: Path | None = None) -> int:
    """The pid of an agent that leaves when all has come to rest."""
    if pid := os.fork():
        return pid
    code = _FAILED
    try:
        os.setsid()
        log = os.open(
            here.site.state.parent / "agent.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = _agent(here, line, noted)
    except BaseException:  # noqa: BLE001 - told in the log
        traceback.print_exc()
    finally:
        os._exit(code)


def _agent(here: Ground, line: Line | None, noted: Path | None) -> int:
    _let_in(here.guests)
    sys.argv = ["holdfast", *here.site.words("run")[3:], *here.site.source(), "--once"]
    lines: list[Line] = []
    if line is not None:
        tracing.die_at(line)
    elif noted is not None:
        tracing.note(lines)
    try:
        agent.cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.settrace(None)
        if noted is not None:
            noted.write_text("".join(f"{file} {at}\n" for file, at in lines))
    return 0


def _let_in(guests: Path) -> None:
    """Have the composition root give every agent of this process the way into guests that are directories."""
    composed = compose.open_backend

    def open_backend(paths: StatePaths, settings: Settings, state_id: str) -> Backend:
        return replace(composed(paths, settings, state_id), doorway=LocalDoorway(guests))

    compose.open_backend = open_backend


def _ended(pid: int, scenario: Scenario | None = None, here: Ground | None = None) -> int:
    """Its exit status; a negative one is the signal that ended it."""
    descriptor = os.pidfd_open(pid)
    try:
        if scenario is not None and scenario.during is not None and here is not None:
            scenario.during(here, pid)
        if not select.select([descriptor], [], [], DEADLINE)[0]:
            os.kill(pid, signal.SIGABRT)
    finally:
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
