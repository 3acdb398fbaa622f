"""Ten thousand documents of a git repository: read for the first time, and after a commit that changes one of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from agent.hypervisor.memory import MemoryHost
from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.paths import StatePaths
from agent.policy import Policy
from agent.record import Pass
from agent.source.git.clone import Clone
from agent.source.git.origin import origin
from agent.source.git.source import GitSource
from agent.tuning import be_patient
from bench.harness import Figure, peak
from bench.passes import IMAGES, STATE_ID
from bench.profile import told
from state.clock import Moment
from state.ledger import Ledger
from tests.gits import Repository, git
from tests.trees import NOW
from tests.waiting import eventually

DOCUMENTS = 10_000
COLD = 5000.0
CHANGED = 300.0
MEMORY = 250.0


def document(number: int, memory: int = 64) -> tuple[str, str]:
    """The path and the text of one."""
    text = f"api: holdfast/v1\nkind: vm\nname: vm{number}\nmemory: {memory}MiB\n"
    return f"d{number % 100}/vm{number}.yaml", text


def planted(root: Path, documents: int) -> Repository:
    """A repository with so many of them."""
    repository = Repository(root)
    files = dict(map(document, range(documents)))
    repository.commit({"images.yaml": IMAGES.format(digest="1" * 64), **files})
    return repository


def figures(rounds: int, documents: int = DOCUMENTS) -> list[Figure]:
    """Each in a process of its own, whose memory is its own."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        repository = planted(root, documents)
        loads: dict[str, list[float]] = {"git archive": [], "holdfast": []}
        for _ in range(max(1, rounds // 3)):
            loads["git archive"].append(_archived(repository))
            loads["holdfast"].append(float(_child("cold", root, str(documents))[0]))
        taken, weight = _child("changed", root, str(rounds))
    samples = {"holdfast": [float(one) for one in taken.split(",")]}
    return [
        Figure(f"first load of a commit of {documents:,} documents", "ms", loads, COLD, f"under {COLD:.0f} ms"),
        Figure(
            f"pass over a commit, fetched, that changes 1 of {documents:,}", "ms", samples, CHANGED,
            f"under {CHANGED:.0f} ms", profile=partial(_profiled, rounds, documents),
        ),
        Figure(
            f"memory of an agent of {documents:,} documents", "MB", {"holdfast": [float(weight)]}, MEMORY,
            f"under {MEMORY:.0f} MB",
        ),
    ]  # fmt: skip


def _profiled(rounds: int, documents: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        planted(Path(directory), documents)
        return _child("profile", directory, str(rounds))


def _child(*words: str | Path) -> list[str]:
    """The lines that it prints."""
    child = subprocess.run(
        [sys.executable, "-m", "bench.repository", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return child.stdout.splitlines()


def _archived(repository: Repository) -> float:
    begun = time.perf_counter()
    subprocess.run(
        ["git", "-C", repository.bare, "archive", "main"], stdout=subprocess.DEVNULL, check=True
    )
    return 1000 * (time.perf_counter() - begun)


def _source(root: Path) -> GitSource:
    paths = StatePaths(root / f"state-{os.getpid()}")
    paths.root.mkdir()
    source = GitSource(Clone(paths, origin(str(root / "origin.git"), "main", None)), host="bench")
    source.fetch()
    return source


def cold(root: Path, documents: int) -> None:
    """Print the milliseconds of a first load."""
    source = _source(root)
    begun = time.perf_counter()
    desired = source.load(NOW)
    print(1000 * (time.perf_counter() - begun))
    assert len(desired.vms) == documents, desired.problems


async def changed(
    root: Path, rounds: int, during: AbstractContextManager[None] | None = None
) -> list[float]:
    """The milliseconds until another commit, just fetched, was read and planned; `during` surrounds all of it."""
    be_patient()
    host, ledger = MemoryHost(), Ledger(root / "state.db")
    work = root / "work"

    def clock() -> Moment:
        return Moment(NOW + host.clock(), host.clock(), host.boot_id)

    source = _source(root)
    world = World(
        source, ledger, host.backend(), clock, RunStore(StatePaths(root), source.attachment)
    )
    policy = Policy(STATE_ID, "tcg", ssh_ports=range(10_000, 60_000))
    passes: list[Pass] = []
    agent = Agent(world, policy, on_pass=lambda done: passes.__setitem__(slice(None), [done]))
    taken = []
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        await eventually(lambda: passes and _at_rest(passes[-1]), "every vm is ready", 600.0)
        with during or nullcontext():
            for number in range(rounds + 1):
                path, text = document(number, 65)
                (work / path).write_text(text)
                git(work, "commit", "-q", "-a", "-m", "a change")
                git(work, "push", "-q", "origin", "HEAD:main")
                source.fetch()
                begun = time.perf_counter()
                done = await agent._guarded_turn(("bench",))
                taken.append(1000 * (time.perf_counter() - begun))
                assert done is not None
                # Nothing is done by a turn alone: what the commits before asked for is still to be done.
                assert [step.action for step in done.plan.acting] == ["replace"] * (number + 1)
        agent.stop()
    ledger.close()
    return taken[1:]


def _at_rest(done: Pass) -> bool:
    return all(getattr(step, "reason", "") == "Ready" for step in done.plan.steps)


def main(what: str, root: Path, number: int) -> None:
    """In a process of its own. `number`: of documents for a first load, else of rounds."""
    if what == "cold":
        cold(root, number)
    elif what == "changed":
        print(",".join(map(str, asyncio.run(changed(root, number)))))
        print(peak())
    else:
        lines: list[str] = []
        asyncio.run(changed(root, number, told(lines)))
        print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
