"""The whole of a sweep, in shares that go on beside each other.

It is no part of `__main__`: a process that is spawned cannot import what belongs to a program.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.sweep import engine, fetches, operations
from tests.sweep.engine import Share, Told

SWEEPS = {"lines": engine.sweep, "operations": operations.sweep, "fetches": fetches.sweep}


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
