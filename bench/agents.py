"""An agent for a benchmark, on a state directory of its own, and waiting for what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.paths import StatePaths


class Running:
    """An agent that runs, and the tree that it keeps."""

    def __init__(self, desired: Path, state: StatePaths, process: subprocess.Popen[bytes]) -> None:
        self.desired, self.state, self._process = desired, state, process

    def until(self, condition: Callable[[], object], pause: float) -> None:
        """Ask again and again, with so many seconds between. Raises RuntimeError when the agent has left."""
        while not condition():
            if self._process.poll() is not None:
                raise RuntimeError(f"the agent has left with status {self._process.returncode}")
            time.sleep(pause)


@contextmanager
def running(root: Path, *words: str) -> Iterator[Running]:
    """An agent on `root/desired`, which is there, while the block lasts; with it goes all that it made. Its log is
    `root/log`."""
    desired, state = root / "desired", StatePaths(root / "state")
    program, where = [sys.executable, "-m", "agent"], ["--state", str(state.root)]
    with (root / "log").open("wb") as log:
        agent = subprocess.Popen(
            [*program, "run", *where, "--desired", str(desired), "--accel", "tcg", *words],
            stderr=log,
        )
    try:
        made = Running(desired, state, agent)
        made.until(lambda: state.database.exists() and state.instances.exists(), 0.01)
        yield made
    finally:
        agent.terminate()
        agent.wait()
        subprocess.run([*program, "down", "--yes", "--volumes", *where], check=True)
