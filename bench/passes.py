"""A pass over names of which nothing has changed: with their documents in a tree, beside a look at every file of it,
and with the documents in memory, for more and more names."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.hypervisor.memory import MemoryHost
from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.paths import StatePaths
from agent.policy import Policy
from agent.reading import Source
from agent.record import Pass
from agent.source.directory import DirectorySource
from agent.tuning import be_patient
from bench.harness import Figure
from bench.profile import told
from state.clock import Moment
from state.desired import Desired
from state.ids import Digest, Name, instance_uid
from state.ledger import Ledger
from state.spec.resolved import Forward
from tests.trees import NOW
from tests.waiting import eventually

STATE_ID = "6f0b0c52-6f0a-4b0e-9a59-0a5b3f4f6d10"
DOCUMENTS = 10_000
RATIO = 3.0
"""Times the floor."""
CHANGED = 300.0
"""Milliseconds."""
NAMES = (1_000, 10_000, 100_000)
FIRST_PORT = 10_000
IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: none
images:
  none: {{source: "https://images.example/none.qcow2", sha256: "{digest}"}}
"""


def figures(rounds: int, documents: int = DOCUMENTS) -> list[Figure]:
    """The whole pass as the loop does it, from load to record, on the hypervisor in memory: over a tree in which
    nothing has changed, and over one in which one document has."""
    return [_unchanged(rounds, documents), _one_changed(rounds, documents)]


def _unchanged(rounds: int, documents: int) -> Figure:
    looks: list[float] = []

    def look(tree: Path, _: int) -> int:
        looks.append(_stat(tree))
        return 0

    taken = _over_tree(rounds, documents, look)
    why = partial(_profiled, rounds, documents, lambda _tree, _turn: 0)
    samples = {"stat of the tree": looks[1:], "holdfast": taken}
    floor = statistics.median(samples["stat of the tree"])
    name = f"pass over {documents:,} unchanged documents"
    return Figure(name, "ms", samples, RATIO * floor, f"{RATIO:.0f} x floor", profile=why)


def _one_changed(rounds: int, documents: int) -> Figure:
    def change(tree: Path, turn: int) -> int:
        _document(tree, turn, memory=65)
        return turn + 1

    samples = {"holdfast": _over_tree(rounds, documents, change)}
    name = f"pass over {documents:,} documents of which one has changed"
    why = partial(_profiled, rounds, documents, change)
    return Figure(name, "ms", samples, CHANGED, f"under {CHANGED:.0f} ms", profile=why)


def _profiled(rounds: int, documents: int, before: Callable[[Path, int], int]) -> list[str]:
    lines: list[str] = []
    _over_tree(rounds, documents, before, told(lines))
    return lines


def _over_tree(
    rounds: int,
    documents: int,
    before: Callable[[Path, int], int],
    during: AbstractContextManager[None] | None = None,
) -> list[float]:
    """As `_turns`, over a tree of so many documents; `during` surrounds the turns."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        tree = _tree(Path(directory))
        source = DirectorySource(tree, host="bench")

        def more() -> Desired:
            for number in range(documents):
                _document(tree, number)
            return source.load(0.0)

        async def turns() -> list[float]:
            async with _settled(Path(directory), source, more) as agent:
                with during or nullcontext():
                    return await _turns(agent, rounds, partial(before, tree))

        return asyncio.run(turns())


def growth(rounds: int, names: tuple[int, ...] = NAMES) -> list[Figure]:
    """The same without a tree: what the loop itself takes, for so many names."""
    return [_in_memory(rounds, number) for number in names]


def _in_memory(rounds: int, names: int) -> Figure:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        first = DirectorySource(_tree(Path(directory)), host="bench").load(0.0)
        source = _Given(first)

        def more() -> Desired:
            [wanted] = first.vms.values()
            called = [Name(f"vm{number}") for number in range(names)]
            vms = {name: replace(wanted, spec=replace(wanted.spec, name=name)) for name in called}
            source.desired = replace(first, vms=vms)
            return source.desired

        async def turns() -> list[float]:
            async with _settled(Path(directory), source, more) as agent:
                return await _turns(agent, rounds, lambda _: 0)

        taken = asyncio.run(turns())
    series = "pass over unchanged names, in memory"
    return Figure(
        f"{series}, {names:,}", "ms", {"holdfast": taken}, None, "", series, names, "names"
    )


class _Given:
    """A source that says what it was given."""

    def __init__(self, desired: Desired) -> None:
        self.desired = desired

    def load(self, _: float) -> Desired:
        return self.desired

    def attachment(self, path: str, digest: Digest) -> bytes:
        raise AssertionError(f"no document names {path} with {digest}")


def _tree(root: Path) -> Path:
    tree = root / "desired"
    tree.mkdir()
    (tree / "images.yaml").write_text(IMAGES.format(digest="1" * 64))
    _document(tree, 0)
    return tree


def _document(tree: Path, number: int, memory: int = 64) -> None:
    text = f"api: holdfast/v1\nkind: vm\nname: vm{number}\nmemory: {memory}MiB\n"
    (tree / f"vm{number}.yaml").write_text(text)


@asynccontextmanager
async def _settled(root: Path, source: Source, more: Callable[[], Desired]) -> AsyncIterator[Agent]:
    """An agent that runs, once all that is wanted after `more` is there. One vm is made by it; that there are others
    like it is written down, since making them would take minutes."""
    be_patient()
    host = MemoryHost()
    ledger = Ledger(root / "state.db")
    passes: list[Pass] = []

    def clock() -> Moment:
        return Moment(NOW + host.clock(), host.clock(), host.boot_id)

    world = World(
        source, ledger, host.backend(), clock, RunStore(StatePaths(root), source.attachment)
    )
    policy = Policy(STATE_ID, "tcg", ssh_ports=range(FIRST_PORT, FIRST_PORT + 2 * max(NAMES)))
    agent = Agent(world, policy, on_pass=lambda done: passes.__setitem__(slice(None), [done]))
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        await eventually(lambda: passes and _at_rest(passes[-1]), "the vm is ready", 120.0)
        await _multiplied(world, host, more())
        yield agent
        agent.stop()
    ledger.close()


async def _turns(agent: Agent, rounds: int, before: Callable[[int], int]) -> list[float]:
    """Milliseconds of each turn but the first. `before` is called with the number of each, and says how many
    replacements it has brought about by then."""
    taken: list[float] = []
    for turn in range(rounds + 1):
        changes = before(turn)
        begun = time.perf_counter()
        done = await agent._guarded_turn(("bench",))
        taken.append(1000 * (time.perf_counter() - begun))
        assert done is not None
        # Nothing is done by a turn alone: what the turns before asked for is still to be done.
        asked = [step.action for step in done.plan.acting]
        assert asked == ["replace"] * changes
        assert changes or _at_rest(done)
    return taken[1:]


async def _multiplied(world: World, host: MemoryHost, desired: Desired) -> None:
    """Let there be a machine like the only one for every vm that is wanted."""
    [first] = world.ledger.instances()
    record, guest = world.ledger.name(first.name), host.guests[first.uid]
    assert first.process is not None
    with world.ledger.transaction() as change:
        for number, (name, wanted) in enumerate(desired.vms.items()):
            if name == first.name:
                continue
            uid, port = instance_uid(STATE_ID, "vm", name, 1), FIRST_PORT + max(NAMES) + number
            forwards = (Forward(host=port, guest=22),)
            machine = replace(guest.machine, uid=uid, name=name, forwards=forwards)
            host.guests[uid] = replace(guest, machine=machine, process=None)
            process = host.start(uid)
            host.guests[uid].state = guest.state
            await world.backend.hypervisor.attach(uid, process)
            change.put_name(replace(record, name=name, ssh_port=port))
            change.put_instance(
                replace(
                    first,
                    uid=uid,
                    name=name,
                    spec=wanted.spec.canonical(),
                    spec_digest=wanted.spec.digest,
                    source=wanted.source,
                    process=process,
                    forwards=forwards,
                    ssh_port=port,
                )
            )


def _at_rest(done: Pass) -> bool:
    return all(getattr(step, "reason", "") == "Ready" for step in done.plan.steps)


def _stat(tree: Path) -> float:
    begun = time.perf_counter()
    with os.scandir(tree) as entries:
        for entry in entries:
            entry.stat()
    return 1000 * (time.perf_counter() - begun)
