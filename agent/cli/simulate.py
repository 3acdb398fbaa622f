"""`holdfast simulate`: the real planner, executor and ledger over a host in memory, with all that can go wrong."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import option, output_option

if TYPE_CHECKING:
    from agent.simulation.history import Told

_HASHES = "0"
"""The one seed of Python's string hashes under which a history is the same each time."""


@click.command()
@option("--seed", type=int, default=1, show_default=True, envvar=None, help="Of the first history.")
@option(
    "--steps",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    envvar=None,
    help="Edits, faults and killed agents in each history.",
)
@option(
    "--machines",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    envvar=None,
    help="Names that the documents are about, beside those of jobs.",
)
@option(
    "--histories",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    envvar=None,
    help="How many, with one seed after the other.",
)
@output_option
def simulate(seed: int, steps: int, machines: int, histories: int, output: str) -> int:
    """Live random histories through, on a host in memory, and check the promises throughout.

    Documents are edited, broken and deleted, QEMUs die and hang, disks fill up, ports are stolen, the host is rebooted,
    and the agent is killed again and again. At last the faults end, and everything must become as it is wanted. The
    same seed gives the same history. Exits 1 if a promise was broken.
    """
    if os.environ.get("PYTHONHASHSEED") != _HASHES:
        sys.stdout.flush()
        os.execve(  # noqa: S606 - this very program again
            sys.executable,
            [sys.executable, "-m", "agent", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": _HASHES},
        )
    began, memory = time.monotonic(), {os.getpid(): _peak_memory()}
    all_told: list[Told] = []
    on_terminal = output == "text" and sys.stderr.isatty()

    def progress(said: str) -> None:
        if on_terminal:
            click.echo(f"\r\033[K{said}", nl=False, err=True)

    for told, pid, peak in _lived(range(seed, seed + histories), steps, machines, progress):
        all_told.append(told)
        memory[pid] = peak
        progress("")
        if told.violations and output == "text":
            _tell_broken(told)
        progress(f"{len(all_told)} of {histories} histories")
    progress("")
    found = _summed(all_told, time.monotonic() - began, sum(memory.values()))
    click.echo(json.dumps(found, indent=1) if output == "json" else _sentence(found))
    return 1 if found["violations"] else 0


_Lived = tuple["Told", int, int]
"""A history, the process that it was lived in, and the bytes that this has needed at most."""


def _lived(
    seeds: range, steps: int, machines: int, progress: Callable[[str], None]
) -> Iterator[_Lived]:
    """One history for each seed, in the order of the seeds; several at once where there are processors for it."""
    at_once = min(len(os.sched_getaffinity(0)), len(seeds))
    if at_once == 1:
        for seed in seeds:
            yield _live(seed, steps, machines, progress)
        return
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as processes:
        one = partial(_live, steps=steps, machines=machines)
        yield from processes.map(one, seeds, chunksize=min(8, -(-len(seeds) // at_once)))


def _live(
    seed: int, steps: int, machines: int, progress: Callable[[str], None] = lambda _: None
) -> _Lived:
    from agent.simulation.history import live

    return live(seed, steps, machines, progress), os.getpid(), _peak_memory()


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tell_broken(told: Told) -> None:
    for violation in told.violations:
        click.echo(f"seed {told.seed}: {violation}")
    click.echo(
        f"  again: holdfast simulate --seed {told.seed} --steps {told.steps} --machines {told.machines}"
    )


def _summed(all_told: list[Told], took: float, memory: int) -> dict[str, Any]:
    happened: dict[str, int] = {}
    for told in all_told:
        for what, count in told.happened.items():
            happened[what] = happened.get(what, 0) + count
    return {
        "histories": [
            {key: value for key, value in asdict(told).items() if key != "happened"}
            for told in all_told
        ],
        "happened": dict(sorted(happened.items())),
        "agents": sum(told.agents for told in all_told),
        "passes": sum(told.passes for told in all_told),
        "violations": sum(len(told.violations) for told in all_told),
        "simulated_seconds": round(sum(told.seconds for told in all_told), 3),
        "took_seconds": round(took, 3),
        "peak_memory_bytes": memory,
    }


def _sentence(found: dict[str, Any]) -> str:
    count = len(found["histories"])
    happened = ", ".join(f"{what} {count}" for what, count in found["happened"].items())
    return (
        f"{happened}\n"
        f"{count} {'history' if count == 1 else 'histories'}, {found['simulated_seconds'] / 3600:.1f} h simulated in"
        f" {found['took_seconds']:.1f} s, {found['peak_memory_bytes'] / 1e6:.0f} MB at most:"
        f" {found['agents']} agents, {found['passes']} passes, {found['violations']} promises broken"
    )
