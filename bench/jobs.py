"""From a job's document on disk, or its commit, to the first line of its script, beside the same guest booted by hand;
and fifty jobs that stand in line, on the hypervisor in memory."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent.errors import NotReady
from agent.guest import keys
from agent.guest.knocking import knocks
from agent.guest.seed import HostKey, Seed, write
from agent.guest.ssh import SshDoorway
from agent.hypervisor.api import TCG_BUFFER
from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.qemu.argv import TCG_CPU
from agent.jobs.store import RunStore
from agent.loop import Agent, World
from agent.paths import StatePaths
from agent.policy import Policy
from agent.source.directory import DirectorySource
from agent.tuning import be_patient
from bench.agents import Running, running
from bench.harness import Figure, alternate
from bench.passes import STATE_ID
from bench.profile import sampled, told
from state.clock import Moment
from state.ids import Name, Uid
from state.ledger import Ledger
from state.runs import RunPhase
from tests.e2e.site import image_path
from tests.trees import NOW
from tests.waiting import eventually

BEYOND_THE_BOOT = 1000.0
FIFTY = 1000.0
MEMORY = 112
USER = "tiny"
IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
sizes: {{small: {{cpus: 1, memory: {memory}MiB}}}}
images:
  tiny: {{source: "{image}", ssh_user: {user}}}
"""
JOB = """\
api: holdfast/v1
kind: job
name: {name}
size: small
script: |
  #!/bin/sh
  echo the first line
"""


def by_hand(directory: Path, image: Path) -> float:
    """An overlay by qemu-img, a QEMU with the same devices and a login that is tried without a pause; milliseconds."""
    disk, seed = directory / "disk.qcow2", directory / "seed.iso"
    paths, name = StatePaths(directory), Name("by-hand")
    key = keys.host_key(paths, name)
    if not seed.exists():
        write(
            Seed(
                instance_id=str(Uid("11111111-1111-4111-8111-111111111111")),
                hostname=name,
                login=USER,
                authorized_key=keys.client_key(paths).public,
                host_key=HostKey(key.private, key.public),
                user_data=None,
            ),
            seed,
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.perf_counter()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", disk], check=True
    )
    qemu = subprocess.Popen(
        [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
            "-machine", "pc", "-accel", f"tcg,thread=multi,tb-size={TCG_BUFFER >> 20}", "-cpu", TCG_CPU,
            "-m", f"{MEMORY}M",
            "-blockdev", json.dumps({"driver": "file", "filename": str(disk), "node-name": "file"}),
            "-blockdev", json.dumps({"driver": "qcow2", "file": "file", "node-name": "disk"}),
            "-device", "virtio-blk-pci,drive=disk",
            "-blockdev", json.dumps(
                {"driver": "file", "filename": str(seed), "node-name": "seed", "read-only": True}
            ),
            "-device", "ide-cd,drive=seed",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=", "-object", "rng-builtin,id=rng",
            "-device", "virtio-rng-pci,rng=rng", "-device", "virtio-balloon-pci",
            "-device", "pvpanic", "-serial", f"file:{directory}/console",
        ]
    )  # fmt: skip
    try:
        asyncio.run(_let_in(SshDoorway(paths), name, port))
        return 1000 * (time.perf_counter() - begun)
    finally:
        qemu.kill()
        qemu.wait()
        disk.unlink()


async def _let_in(doorway: SshDoorway, name: Name, port: int) -> None:
    while True:
        try:
            await knocks(name, port, 5.0)
            await doorway.answers(Uid("by hand"), name, port, USER)
        except NotReady:
            await asyncio.sleep(0.005)
        else:
            return


class Deployed:
    """An agent on a tree or a repository without jobs, and those that are put there."""

    def __init__(self, agent: Running) -> None:
        self._agent = agent
        self._made = 0

    def one_more(self) -> float:
        """A job's document written, its script's first line in the log; milliseconds."""
        part = self._next()
        begun = time.perf_counter()
        part.rename(part.with_name(f"job{self._made}.yaml"))
        return self._until_it_speaks(begun)

    def one_more_committed(self) -> float:
        """As `one_more`, from `git commit` on, with a `holdfast reconcile` after it, as a hook would call it."""
        part = self._next()
        part.rename(part.with_name(f"job{self._made}.yaml"))
        _git(part.parent, "add", "-A")
        begun = time.perf_counter()
        _git(part.parent, "commit", "-q", "-m", "one more")
        self._agent.call("reconcile")
        return self._until_it_speaks(begun)

    def profiled(self, what: str) -> list[str]:
        """Where the agent spends its time with one more."""
        with sampled(self._agent.pid) as lines:
            if what == "commit":
                self.one_more_committed()
            else:
                self.one_more()
        return lines

    def _next(self) -> Path:
        """The document of another job, not yet in its place."""
        self._made += 1
        part = self._agent.desired / ".part"
        part.write_text(JOB.format(name=f"job{self._made}"))
        return part

    def _until_it_speaks(self, begun: float) -> float:
        self._agent.until(lambda: any(self._says("\nthe first line\n")), 0.001)
        taken = 1000 * (time.perf_counter() - begun)
        self._agent.until(lambda: not any(self._agent.state.instances.iterdir()), 0.01)
        return taken

    def _says(self, words: str) -> Iterator[bool]:
        """Whether the run of the last job says so."""
        for record in self._agent.state.runs.glob("[!.]*/run.json"):
            if json.loads(record.read_text())["name"] == f"job{self._made}":
                log = record.with_name("log")
                yield log.exists() and words in log.read_text(errors="replace")


def _git(work: Path, *words: str) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@example")
    subprocess.run(["git", "-C", work, *who, *words], check=True)


@contextmanager
def deployed(image: Path, *, is_git: bool = False) -> Iterator[Deployed]:
    """An agent that runs while the block does."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        tree = root / "desired"
        tree.mkdir()
        (tree / "images.yaml").write_text(IMAGES.format(memory=MEMORY, image=image, user=USER))
        if is_git:
            _git(tree, "init", "-q", "-b", "main")
            _git(tree, "add", "-A")
            _git(tree, "commit", "-q", "-m", "images")
        with running(root, "--image-root", str(image.parent), is_git=is_git) as agent:
            yield Deployed(agent)


def figures(rounds: int) -> list[Figure]:
    """From the document and from the commit, with what is allowed beyond the guest's own boot."""
    image = image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2")
    with (
        tempfile.TemporaryDirectory(prefix="hf-bench-") as directory,
        deployed(image) as on_tree,
        deployed(image, is_git=True) as on_git,
    ):
        taken = alternate(
            rounds,
            boot=lambda: by_hand(Path(directory), image),
            document=on_tree.one_more,
            commit=on_git.one_more_committed,
        )
    limit = statistics.median(taken["boot"]) + BEYOND_THE_BOOT
    rule = f"boot + {BEYOND_THE_BOOT / 1000:.1f} s"
    return [
        Figure(
            f"{what} to a script's first line",
            "ms",
            {"boot to login": taken["boot"], "holdfast": taken[what]},
            limit,
            rule,
            profile=partial(_profiled, image, what),
        )
        for what in ("document", "commit")
    ]


def _profiled(image: Path, what: str) -> list[str]:
    with deployed(image, is_git=what == "commit") as agent:
        return agent.profiled(what)


def line(rounds: int, jobs: int = 50) -> Figure:
    """From fifty documents in the tree to the end of the last of their runs, whose scripts take no time."""
    return Figure(
        f"{jobs} jobs of no length from documents to results, in memory",
        "ms",
        {"holdfast": [asyncio.run(_queued(jobs)) for _ in range(rounds)]},
        FIFTY,
        f"under {FIFTY:.0f} ms",
        profile=partial(_line_profiled, jobs),
        note=(
            "Two run at a time, and most of what they take is not Python: each step of a run is on disk before the next"
            " begins."
        ),
    )


def _line_profiled(jobs: int) -> list[str]:
    lines: list[str] = []
    with told(lines):
        asyncio.run(_queued(jobs))
    return lines


async def _queued(jobs: int) -> float:
    """Guests in memory take no time, so that what remains is the scheduling, two at a time."""
    be_patient()
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        tree = root / "desired"
        tree.mkdir()
        images = IMAGES.format(memory=MEMORY, image="https://images.example/i.qcow2", user=USER)
        (tree / "images.yaml").write_text(images)
        host = MemoryHost()
        ledger = Ledger(root / "state.db")

        def clock() -> Moment:
            return Moment(NOW + host.clock(), host.clock(), host.boot_id)

        source = DirectorySource(tree, host="bench")
        store = RunStore(StatePaths(root), source.attachment)
        world = World(source, ledger, host.backend(), clock, store)
        agent = Agent(world, Policy(STATE_ID, "tcg"))
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            for number in range(jobs):
                (tree / f"job{number}.yaml").write_text(JOB.format(name=f"job{number}"))
            begun = time.perf_counter()
            agent.wake.notify("bench")
            await eventually(
                lambda: sum(run.phase is RunPhase.SUCCEEDED for run in ledger.runs()) == jobs,
                "all have run",
                120.0,
            )
            taken = 1000 * (time.perf_counter() - begun)
            agent.stop()
        ledger.close()
    return taken
