"""Two hundred VMs that only stand there and are measured: what their agent takes of the host, and how soon a browser
shows them."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import sync_playwright

from agent.paths import StatePaths
from agent.statedir import holder
from bench.agents import Running, running
from bench.harness import Figure, alternate
from bench.keeper import IDLE, idle, resident
from bench.profile import sampled
from bench.start import IMAGES
from state.lifecycle import Phase
from state.observed import Instance
from state.records import LedgerUnreadable, Reader
from state.samples import MetricsReader, MetricsUnusable

MACHINES = 200
CPU = 1.0
"""Percent of a processor."""
MEMORY = 100.0
PAGE = 1000.0


def figures(rounds: int, machines: int = MACHINES, seconds: float = IDLE) -> Iterator[Figure]:
    """All of them, over as many machines; an idle agent is watched for so many seconds."""
    with _planted(machines) as root:
        port = _free_port()
        with _inhabited(root, machines, "--listen", f"127.0.0.1:{port}") as agent:
            yield from _idle(agent, machines, seconds)
            yield _page(rounds, port, machines)


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
            rounds,
            **{"its script alone": lambda: shown("/page.js", 0)},
            holdfast=lambda: shown("/", machines),
        )
        browser.close()
    return Figure(
        f"a page with {machines} names, in Chromium", "ms", samples, PAGE, f"at most {PAGE:.0f} ms"
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
