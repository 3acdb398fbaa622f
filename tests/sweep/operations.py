"""Lets the n-th write, sync or rename fail while an agent fetches an image and creates a machine; strace(1) does it.

It counts in each thread by itself: one number is an operation of each thread that comes to it, and the thread that
makes most of them says how many numbers there are. An agent that comes after has to make it good.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from agent.statedir import holder
from tests.bootsectors import write_disk
from tests.e2e.site import STILL_IMAGES
from tests.sweep.engine import ALL, DEADLINE, Share, Told, falls_to, inhabited_ground, unharmed
from tests.sweep.scenarios import Ground

CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "fallocate")
STUCK = 124
"""In place of the exit status of an agent that does not leave, as of timeout(1)."""
ERRORS = ("EIO", "ENOSPC", "EINTR")


@dataclass(frozen=True)
class Operation:
    """One of an agent's system calls, and how it fails."""

    call: str
    number: int
    error: str


def sweep(
    sample: int | None,
    seed: int,
    share: Share = ALL,
    told: Callable[[str], None] = lambda _: None,
) -> Told:
    """Each operation of the share with each error, or `sample` of them, chosen by `seed`."""
    began, found = time.monotonic(), Told()
    with inhabited_ground() as here:
        points = _points(here)
        for point in points:
            found.lines[point.call] += 1
        points = [point for point in points if falls_to(share, point)]
        if sample is not None:
            chance = random.Random(seed)  # noqa: S311 - the same each time is the point
            points = chance.sample(points, min(sample, len(points)))
        for point in points:
            fail_at(here, point, found)
            told(f"{found.points} of {len(points)} operations, {len(found.violations)} violations")
    found.seconds = time.monotonic() - began
    return found


def _points(here: Ground) -> list[Operation]:
    _prepare(here)
    trace = here.site.state.parent / "trace"
    assert _run(here, ["-o", str(trace), "-e", f"trace={','.join(CALLS)}"]) == 0, here.site.log()
    made = re.findall(r"^(\d+)\s+(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE)
    most: dict[str, int] = {}
    for (_, call), count in Counter(made).items():
        most[call] = max(most.get(call, 0), count)
    return [
        Operation(call, number, error)
        for call in CALLS
        for number in range(1, most.get(call, 0) + 1)
        for error in ERRORS
    ]


def _prepare(here: Ground) -> None:
    """A new machine is wanted, of an image that is not in the store; the one before is gone."""
    here.without()
    assert unharmed(here) == 0, here.site.log()
    root = here.site.state.parent
    for old in root.glob("fresh-*"):
        old.unlink()
    here.images += 1
    disk = root / f"fresh-{here.images}"
    write_disk(disk, "obedient", (1 << 20) + 512 * here.images)
    entry = f'  fresh: {{source: "{disk}", format: raw, nocloud: false}}\n'
    here.site.write("images.yaml", STILL_IMAGES.format(root=root) + entry)
    here.memory = 32
    here.site.vm("web", memory="32MiB", more="image: fresh\nstop_timeout: 0s")


def fail_at(here: Ground, point: Operation, found: Told) -> None:
    """Let one operation fail, see it made good, and note what is wrong then."""
    _prepare(here)
    inject = f"inject={point.call}:error={point.error}:when={point.number}"
    status = _run(here, ["-o", os.devnull, "-e", f"trace={point.call}", "-e", inject])
    # What failed often is tried again after a while.
    here.site.until(lambda: unharmed(here) == 0, f"{point} is made good", DEADLINE)
    found.points += 1
    where = f"{point.error} at {point.call} {point.number}"
    if status not in (0, 1):
        found.violations.append(f"{where}: the agent ended with {status}: {here.site.log()}")
    found.violations += [f"{where}: {what}" for what in here.wrong()]
    here.site.state.parent.joinpath("agent.log").unlink()


def _run(here: Ground, how: list[str]) -> int:
    """The exit status of an agent that leaves when all has come to rest, under strace. What it starts is left alone."""
    # strace itself is started by an exec of the program, which must not be what it lets go of.
    words = ["strace", "-f", "-qq", "--detach-on=execve", *how, *here.site.words("run")]
    with (here.site.state.parent / "agent.log").open("ab") as log:
        whole = [*words, *here.site.source(), "--once"]
        with subprocess.Popen(whole, stdout=log, stderr=log) as tracer:
            try:
                return tracer.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                if (agent := holder(here.site.paths)) is not None:
                    os.kill(agent, signal.SIGKILL)
                return STUCK
