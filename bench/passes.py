"""A pass over documents that have not changed, beside a look at every file of the tree."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from agent.hypervisor.memory import MemoryHost
from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.paths import StatePaths
from agent.policy import Policy
from agent.record import Pass
from agent.source.directory import DirectorySource
from bench.harness import Figure
from state.clock import Moment
from state.ledger import Ledger
from tests.waiting import eventually

STATE_ID = "6f0b0c52-6f0a-4b0e-9a59-0a5b3f4f6d10"
ALLOWED = 50.0
IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: none
images:
  none: {{source: "https://images.example/none.qcow2", sha256: "{digest}"}}
"""


def figure(rounds: int, documents: int = 1000) -> Figure:
    """The whole pass as the loop does it, from load to record, on the hypervisor in memory."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        tree = root / "desired"
        tree.mkdir()
        (tree / "images.yaml").write_text(IMAGES.format(digest="1" * 64))
        for number in range(documents):
            text = f"api: holdfast/v1\nkind: vm\nname: vm{number}\nmemory: 64MiB\n"
            (tree / f"vm{number}.yaml").write_text(text)
        samples = asyncio.run(_measure(root, tree, rounds))
    name = f"pass over {documents} unchanged documents"
    return Figure(name, "ms", samples, ALLOWED, f"under {ALLOWED:.0f} ms")


async def _measure(root: Path, tree: Path, rounds: int) -> dict[str, list[float]]:
    host = MemoryHost()
    ledger = Ledger(root / "state.db")
    passes: list[Pass] = []

    def clock() -> Moment:
        return Moment(1.8e9 + host.clock(), host.clock(), host.boot_id)

    source = DirectorySource(tree, host="bench")
    store = RunStore(StatePaths(root), source.attachment)
    world = World(source, ledger, host.backend(), clock, store)
    policy = Policy(STATE_ID, "tcg", ssh_ports=range(10_000, 60_000))
    agent = Agent(world, policy, on_pass=passes.append)
    samples: dict[str, list[float]] = {"stat of the tree": [], "holdfast": []}
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        await eventually(lambda: passes and _at_rest(passes[-1]), "every vm is ready", 120.0)
        for _ in range(rounds + 1):
            samples["stat of the tree"].append(_stat(tree))
            begun = time.perf_counter()
            await agent._guarded_turn(("bench",))
            samples["holdfast"].append(1000 * (time.perf_counter() - begun))
        agent.stop()
    ledger.close()
    return {who: taken[1:] for who, taken in samples.items()}


def _at_rest(done: Pass) -> bool:
    return all(getattr(step, "reason", "") == "Ready" for step in done.plan.steps)


def _stat(tree: Path) -> float:
    begun = time.perf_counter()
    with os.scandir(tree) as entries:
        for entry in entries:
            entry.stat()
    return 1000 * (time.perf_counter() - begun)
