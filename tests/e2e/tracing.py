"""Lets the kernel answer a live process otherwise: strace, attached for as long as a block lasts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.site import DEADLINE


@contextmanager
def tampered(pid: int, calls: str, how: str, log: Path) -> Iterator[None]:
    """The system `calls` of a process, all of its threads, go as strace's `inject` says in `how`; each of them stands
    in `log`. What the process starts is left alone, and so is the process when the block is left."""
    words = ["strace", "-f", "--detach-on=execve", "-o", str(log), "-p", str(pid)]
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]
    with subprocess.Popen([*words, *inject], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        assert "attached" in said, said
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()
            strace.wait(DEADLINE)
