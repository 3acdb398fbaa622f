"""Where a process spends its time in Python: what py-spy, looking 200 times a second from outside, sees hold the lock
of the interpreter. What waits, or works for a library or the kernel without that lock, is not in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0
"""Seconds that a profiler may take to begin; without one it goes on."""
RATE = 200
"""Looks a second."""
MOST = 14
"""Lines of each half."""
_DOORS = ("agent/__main__.py", "agent/cli/")
"""All that an agent does is within these."""
_IMPORTS = "importlib._bootstrap>"
_PY_SPY = Path(sys.executable).with_name("py-spy")


@contextmanager
def sampled(pid: int) -> Iterator[list[str]]:
    """The lines of the block's profile, there when it is over; or one that says why there is none, as where this user
    may not look into the process."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        stacks, said = Path(directory) / "stacks", Path(directory) / "said"
        words = ["record", "-p", str(pid), "-g", "-r", str(RATE), "-f", "raw", "-o", str(stacks)]
        with said.open("w") as log:
            spy = subprocess.Popen([_PY_SPY, *words], stdout=log, stderr=log)
            end = time.monotonic() + PATIENCE
            try:
                while spy.poll() is None and time.monotonic() < end:
                    if "Sampling" in said.read_text():
                        break
                    time.sleep(0.02)
                yield lines
            finally:
                if spy.poll() is None:
                    spy.send_signal(signal.SIGINT)
                spy.wait()
        lines += summed(stacks.read_text()) if stacks.exists() else [said.read_text().strip()]


@contextmanager
def told(lines: list[str]) -> Iterator[None]:
    """Put into `lines` where this process spends the block."""
    with sampled(os.getpid()) as found:
        yield
    lines += found


def summed(stacks: str) -> list[str]:
    """The functions in which most of the time passes, first with what they call, then without, in percent of the
    time in Python. `stacks`: a line for each stack, outermost frame first, frames parted by `;`, and how often it was
    seen."""
    whole: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    seen = imports = 0
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = [_place(frame) for frame in stack.split(";")]
        seen += int(number)
        imports += int(number) if _IMPORTS in stack else 0
        for frame in {frame for frame in frames if frame.endswith("\0house")}:
            whole[frame] += int(number)
        alone[frames[-1]] += int(number)
    return [
        f"{seen / RATE:.2f} s in Python",
        *([f"{100 * imports // seen:3d} % within imports"] if imports else []),
        *(f"{100 * n // seen:3d} % within {_bare(of)}" for of, n in whole.most_common(MOST)),
        *(f"{100 * n // seen:3d} % in {_bare(of)} alone" for of, n in alone.most_common(MOST)),
    ]


def _place(frame: str) -> str:
    """`function (path:line)` as `function (path)`, whichever line it is at, and whether it is of our house: of what is
    imported, and of the doors that everything is within, no function is."""
    function, _, where = frame.partition(" (")
    path = where.rpartition(":")[0] or where.rstrip(")")
    at = max(f"/{path}".rfind(f"/{of}/") for of in ("agent", "state"))
    inside = "" if at < 0 or "site-packages" in path else path[at:]
    ours = inside and not inside.startswith(_DOORS) and function != "<module>"
    return f"{function} ({inside or path})\0{'house' if ours else 'other'}"


def _bare(place: str) -> str:
    return place.partition("\0")[0]
