"""The floor: QEMUs that a script starts, asks and kills, as many at a time as there are processors."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from bench.keeper import SWEEPS
from bench.start import answered, blank, by_hand

_Lines = list[tuple[socket.socket, BinaryIO]]
_QUESTIONS = b'{"execute":"query-status"}\n{"execute":"query-blockstats"}\n'


class Bare:
    """Nothing keeps them: what is known of them is in this script."""

    name = "bare QEMU"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._base = blank(root / "base.raw")
        self._qemus: list[subprocess.Popen[bytes]] = []

    def up(self, machines: int) -> float:
        begun = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._start, range(machines)))
        return 1000 * (time.perf_counter() - begun)

    def _start(self, number: int) -> None:
        mine = self._root / str(number)
        mine.mkdir()
        overlay = ("-b", self._base, "-F", "raw", mine / "disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *overlay], check=True)
        qemu = subprocess.Popen(by_hand(mine))
        self._qemus.append(qemu)
        answered(mine / "qmp", lambda: qemu.poll() is None)

    def ask(self) -> float:
        """Every question is written before the first answer is read, on connections that are there."""
        with self._connected() as lines:
            begun = time.perf_counter()
            for _ in range(SWEEPS):
                _sweep(lines)
            return 1000 * (time.perf_counter() - begun) / SWEEPS

    def again(self) -> float:
        begun = time.perf_counter()
        with self._connected() as lines:
            _sweep(lines)
            return 1000 * (time.perf_counter() - begun)

    @contextmanager
    def _connected(self) -> Iterator[_Lines]:
        with ExitStack() as stack:
            lines: _Lines = []
            for number in range(len(self._qemus)):
                line = stack.enter_context(socket.socket(socket.AF_UNIX))
                line.connect(str(self._root / str(number) / "qmp"))
                line.sendall(b'{"execute":"qmp_capabilities"}\n')
                lines.append((line, stack.enter_context(line.makefile("rb"))))
            for _, file in lines:
                file.readline()  # the greeting
                file.readline()
            yield lines

    def weight(self) -> None:
        return None

    def idle(self, seconds: float) -> None:
        return None

    def down(self) -> float:
        begun = time.perf_counter()
        for qemu in self._qemus:
            qemu.kill()
        for qemu in self._qemus:
            qemu.wait()
        for number in range(len(self._qemus)):
            shutil.rmtree(self._root / str(number))
        self._qemus.clear()
        return 1000 * (time.perf_counter() - begun)

    def close(self) -> None:
        """Leave none of them."""
        for qemu in self._qemus:
            qemu.kill()
            qemu.wait()


@contextmanager
def kept() -> Iterator[Bare]:
    """The script while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        script = Bare(Path(directory))
        try:
            yield script
        finally:
            script.close()


def _sweep(lines: _Lines) -> None:
    for line, _ in lines:
        line.sendall(_QUESTIONS)
    for _, file in lines:
        status, blocks = (json.loads(file.readline())["return"] for _ in range(2))
        assert status["status"] == "prelaunch"
        assert blocks[0]["stats"]["rd_operations"] >= 0
