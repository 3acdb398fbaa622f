"""Two hundred VMs that only stand there: what a sweep over them takes beside the bare questions, what their agent takes
of the host, and how soon a browser shows them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import sync_playwright

from agent.hypervisor.qemu.meter import QemuMeter
from agent.paths import StatePaths
from agent.statedir import holder
from bench.agents import Running, running
from bench.harness import Figure, alternate
from bench.keeper import idle, resident
from bench.profile import sampled
from bench.start import IMAGES
from state.ids import Process, Uid
from state.lifecycle import Phase
from state.observed import Instance
from state.records import LedgerUnreadable, Reader
from state.samples import MetricsReader, MetricsUnusable

MACHINES = 200
SWEEP = 1.5
"""Times the floor."""
CPU = 1.0
"""Percent of a processor."""
MEMORY = 100.0
PAGE = 1000.0
IDLE = 60.0
"""Seconds over which an idle agent is watched: as long as it takes to do all that it does now and then."""
_SWEEPS = 6
"""In a row on one connection: as many as the meter takes to ask for everything once."""
_QUESTIONS = b'{"execute":"query-status"}\n{"execute":"query-blockstats"}\n'


def figures(rounds: int, machines: int = MACHINES, seconds: float = IDLE) -> list[Figure]:
    """All of them, over as many machines; an idle agent is watched for so many seconds."""
    with _planted(machines) as root:
        with _inhabited(root, machines, "--metrics-interval", "0") as agent:
            sweep = _sweep(rounds, agent.state, machines)
        port = _free_port()
        with _inhabited(root, machines, "--listen", f"127.0.0.1:{port}") as agent:
            at_rest = _idle(agent, machines, seconds)
            page = _page(max(2, rounds // 3), port, machines)
    return [sweep, *at_rest, page]


@contextmanager
def _planted(machines: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        desired = root / "desired"
        desired.mkdir()
        (desired / "blank.raw").write_bytes(bytes(1 << 20))
        (desired / "images.yaml").write_text(IMAGES)
        for number in range(machines):
            text = f"api: holdfast/v1\nkind: vm\nname: vm{number}\nmemory: 32MiB\npower: paused\nstop_timeout: 0s\n"
            (desired / f"vm{number}.yaml").write_text(text)
        yield root


@contextmanager
def _inhabited(root: Path, machines: int, *words: str) -> Iterator[Running]:
    with running(root, *words) as agent:
        agent.until(lambda: len(_live(agent.state)) == machines, 0.5)
        yield agent


def _live(state: StatePaths) -> list[Instance]:
    try:
        reader = Reader.open(state.database)
    except LedgerUnreadable:
        return []
    try:
        return [one for one in reader.instances() if one.process and one.phase is Phase.RUNNING]
    finally:
        reader.close()


# A sweep


def _sweep(rounds: int, state: StatePaths, machines: int) -> Figure:
    live = {one.uid: one.process for one in _live(state) if one.process}
    samples = alternate(
        rounds, raw=lambda: _raw(state, live), holdfast=lambda: asyncio.run(_metered(state, live))
    )
    limit = SWEEP * statistics.median(samples["raw"])
    return Figure(
        f"a sweep of {machines} VMs", "ms", samples, limit, f"at most {SWEEP} of the raw questions"
    )


def _raw(state: StatePaths, live: Mapping[Uid, Process]) -> float:
    """Both questions to all at once, and every answer as JSON."""
    with ExitStack() as stack:
        lines = []
        for uid in live:
            line = stack.enter_context(socket.socket(socket.AF_UNIX))
            line.connect(str(state.instance(uid).metrics_socket))
            file = stack.enter_context(line.makefile("rb"))
            file.readline()
            line.sendall(b'{"execute":"qmp_capabilities"}\n')
            file.readline()
            lines.append((line, file))

        def sweep() -> None:
            for line, _ in lines:
                line.sendall(_QUESTIONS)
            for _, file in lines:
                json.loads(file.readline())
                json.loads(file.readline())

        return _timed(sweep)


def _timed(sweep: Callable[[], None]) -> float:
    begun = time.perf_counter()
    for _ in range(_SWEEPS):
        sweep()
    return 1000 * (time.perf_counter() - begun) / _SWEEPS


async def _metered(state: StatePaths, live: Mapping[Uid, Process]) -> float:
    meter = QemuMeter(state, lambda _: True)
    try:
        known = await meter.read(live)  # connects
        assert len(known) == len(live)
        begun = time.perf_counter()
        for _ in range(_SWEEPS):
            assert len(await meter.read(live)) == len(live)
        return 1000 * (time.perf_counter() - begun) / _SWEEPS
    finally:
        meter.close()


# An agent that has nothing to do


def _idle(agent: Running, machines: int, seconds: float) -> list[Figure]:
    pid = holder(agent.state)
    assert pid is not None
    agent.until(lambda: _measured_twice(agent.state) == machines, 0.5)
    busy, weight = idle([pid], seconds), resident([pid])
    return [
        Figure(
            f"an idle agent with {machines} VMs, measured every 10 s",
            "% of a processor", {"holdfast": [busy]}, CPU, f"at most {CPU} %",
            profile=partial(_profiled, machines, seconds),
        ),
        Figure(
            f"memory of an agent with {machines} VMs",
            "MB", {"holdfast": [weight]}, MEMORY, f"at most {MEMORY:.0f} MB",
        ),
    ]  # fmt: skip


def _profiled(machines: int, seconds: float) -> list[str]:
    with _planted(machines) as root, _inhabited(root, machines) as agent:
        agent.until(lambda: _measured_twice(agent.state) == machines, 0.5)
        with sampled(agent.pid) as lines:
            time.sleep(seconds)
        return lines


def _measured_twice(state: StatePaths) -> int:
    """How many machines were: what was begun for them has come to rest by then."""
    try:
        with closing(MetricsReader(state.metrics)) as reader:
            return sum(len(samples) > 1 for samples in reader.recent(time.time()).values())
    except MetricsUnusable:
        return 0


# The page


def _page(rounds: int, port: int, machines: int) -> Figure:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])

        def shown(path: str, rows: int) -> float:
            page = browser.new_page()
            begun = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}{path}")
            if rows:
                page.locator("#names tbody tr").nth(rows - 1).wait_for()
            took = 1000 * (time.perf_counter() - begun)
            page.close()
            return took

        samples = alternate(
            rounds, script=lambda: shown("/page.js", 0), holdfast=lambda: shown("/", machines)
        )
        browser.close()
    return Figure(
        f"a page with {machines} names, in Chromium", "ms", samples, PAGE, f"at most {PAGE:.0f} ms"
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
