"""An agent for a benchmark, on a state directory of its own, and waiting for what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.paths import StatePaths

PATIENCE = 600.0
"""Seconds."""
_PROGRAM = (sys.executable, "-m", "agent")
_WAITS = "import runpy, sys; sys.stdin.readline(); runpy.run_module('agent', run_name='__main__', alter_sys=True)"
_PROGRAM_THAT_WAITS = (sys.executable, "-c", _WAITS)


class Running:
    """An agent that runs, and the tree that it keeps."""

    def __init__(
        self,
        desired: Path,
        state: StatePaths,
        log: BinaryIO,
        words: tuple[str, ...],
        *,
        is_git: bool = False,
    ) -> None:
        self.desired, self.state, self._log = desired, state, log
        self._source = ("--git", str(desired)) if is_git else ("--desired", str(desired))
        self._process = self._begun(words)

    @property
    def pid(self) -> int:
        return self._process.pid

    def lives(self) -> bool:
        return self._process.poll() is None

    def until(self, condition: Callable[[], object], pause: float) -> None:
        """Ask again and again, with so many seconds between. Raises RuntimeError when the agent has left, and when it
        takes too long."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self._process.poll() is not None:
                raise RuntimeError(f"the agent has left with status {self._process.returncode}")
            if time.monotonic() > end:
                raise RuntimeError(f"the agent has not done in {PATIENCE:g} s what is measured")
            time.sleep(pause)

    def call(self, *words: str) -> None:
        """One command of the program on this state. Raises CalledProcessError."""
        subprocess.run(
            [*_PROGRAM, *words, "--state", str(self.state.root)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def leave(self) -> None:
        """Let it go; its VMs run on."""
        self._process.terminate()
        self._process.wait()

    def another(self, *words: str, waits: bool = False) -> None:
        """Begin another one, after `leave`, with these words instead; it has not done anything yet. `waits`: and does
        not import anything before `go`."""
        self._process = self._begun(words, waits=waits)

    def go(self) -> None:
        """Let the one that waits begin."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _begun(self, words: tuple[str, ...], *, waits: bool = False) -> subprocess.Popen[bytes]:
        where = ["--state", str(self.state.root), *self._source]
        program = _PROGRAM_THAT_WAITS if waits else _PROGRAM
        return subprocess.Popen(
            [*program, "run", *where, "--accel", "tcg", *words],
            stdin=subprocess.PIPE if waits else None, stderr=self._log,
        )  # fmt: skip


@contextmanager
def running(root: Path, *words: str, is_git: bool = False) -> Iterator[Running]:
    """An agent on `root/desired`, which is there, while the block lasts; with it goes all that it made. Its log is
    `root/log`. `is_git`: `root/desired` is a repository, and what is committed there counts."""
    state = StatePaths(root / "state")
    with (root / "log").open("wb") as log:
        made = Running(root / "desired", state, log, words, is_git=is_git)
        try:
            made.until(lambda: state.database.exists() and state.instances.exists(), 0.01)
            yield made
        finally:
            made.leave()
            made.call("down", "--yes", "--volumes")
