"""What a person waits for `holdfast status`, and what an agent with nothing to do weighs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.agents import running
from bench.harness import Figure, alternate
from bench.keeper import resident

STATUS_ALLOWED = 250.0
MEMORY_ALLOWED = 80.0
VMS = 20


def status(rounds: int) -> Figure:
    """`holdfast status` of a state with some vms, as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        _tree(root / "desired", VMS)
        state = ["--state", str(root / "state")]
        agent = [sys.executable, "-m", "agent"]
        subprocess.run(
            [
                *agent,
                "run",
                "--once",
                "--hypervisor",
                "memory",
                "--desired",
                root / "desired",
                *state,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        samples = alternate(
            rounds,
            **{
                "python -c pass": lambda: _timed([sys.executable, "-c", "pass"]),
                "holdfast status": lambda: _timed([*agent, "status", *state]),
            },
        )
    return Figure("status, cold", "ms", samples, STATUS_ALLOWED, f"under {STATUS_ALLOWED:.0f} ms")


def memory(rounds: int) -> Figure:
    """Resident memory of an agent on a tree without vms, once it waits."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        _tree(root / "desired", 0)
        samples = alternate(
            rounds, **{"python": lambda: _weight_of_python(), "idle agent": lambda: _weight(root)}
        )
    return Figure(
        "resident memory, idle", "MB", samples, MEMORY_ALLOWED, f"under {MEMORY_ALLOWED:.0f} MB"
    )


def _tree(tree: Path, vms: int) -> None:
    tree.mkdir()
    (tree / "images.yaml").write_text(
        "api: holdfast/v1\nkind: images\nname: default\ndefault_label: none\nimages:\n"
        '  none: {source: "https://images.example/none.qcow2", sha256: "' + "1" * 64 + '"}\n'
    )
    for number in range(vms):
        text = f"api: holdfast/v1\nkind: vm\nname: vm{number}\n"
        (tree / f"vm{number}.yaml").write_text(text)


def _timed(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - begun)


def _weight(root: Path) -> float:
    with running(root) as agent:
        return resident([agent.pid])


def _weight_of_python() -> float:
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
        return resident([waiting.pid])  # closing its input ends it
