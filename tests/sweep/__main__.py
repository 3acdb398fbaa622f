"""`python -m tests.sweep [lines|operations] [--sample N] [--seed S]`: status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.sweep import engine, operations
from tests.sweep.engine import ALL, Share, Told

SWEEPS = {"lines": engine.sweep, "operations": operations.sweep}


def swept(share: Share, what: str, sample: int | None, seed: int) -> Told:
    """One share. It forks agents, so that its process may have no other threads."""

    def progress(words: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)

    return SWEEPS[what](sample, seed, share, progress)


def whole(what: str, seed: int) -> Told:
    """All shares, each on a processor of its own."""
    began, parts = time.monotonic(), len(os.sched_getaffinity(0))
    one = partial(swept, what=what, sample=None, seed=seed)
    with ProcessPoolExecutor(parts, mp_context=get_context("spawn")) as processes:
        first, *others = processes.map(one, [(part, parts) for part in range(parts)])
    for other in others:
        first.points += other.points
        first.unreached += other.unreached
        first.violations += other.violations
    first.seconds = time.monotonic() - began
    return first


def main() -> int:
    """Print points, violations and seconds."""
    parser = argparse.ArgumentParser(prog="tests.sweep", description=__doc__)
    parser.add_argument("what", choices=list(SWEEPS), nargs="?", default="lines")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    said = parser.parse_args()
    what, sample, seed = said.what, said.sample, said.seed
    told = whole(what, seed) if sample is None else swept(ALL, what, sample, seed)
    counts = ", ".join(f"{name} {count}" for name, count in told.lines.items())
    print(f"seed {seed}; {what}: {counts}")
    for violation in told.violations:
        print(f"violation: {violation}")
    print(
        f"{told.points} points ({told.unreached} of them not reached), {len(told.violations)} violations,"
        f" {told.seconds:.0f} seconds"
    )
    return 1 if told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
