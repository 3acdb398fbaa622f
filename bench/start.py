"""From a document on disk to a QEMU that answers, beside the same QEMU started by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.agents import Running, running
from bench.harness import Figure, alternate
from state.ids import Uid
from state.records import LedgerUnreadable, Reader

ALLOWED = 100.0
IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: blank
images:
  blank: {source: blank.raw, format: raw, nocloud: false}
"""
QUESTION = b'{"execute":"qmp_capabilities"}{"execute":"query-status"}'


def answered(path: Path) -> None:
    """Wait until the monitor at `path` has answered `query-status`."""
    while True:
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(os.fspath(path))
            except OSError:
                time.sleep(0.0005)
                continue
            line.sendall(QUESTION)
            said = b""
            while b'"running"' not in said:
                piece = line.recv(4096)
                if not piece:
                    break
                said += piece
            else:
                return


def by_hand(directory: Path, base: Path) -> float:
    """An overlay by qemu-img and a QEMU with the same devices; milliseconds."""
    disk, monitor = directory / "disk.qcow2", directory / "qmp"
    begun = time.perf_counter()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk], check=True
    )
    qemu = subprocess.Popen(
        [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
            "-machine", "pc", "-accel", "tcg,tb-size=32", "-m", "32M",
            "-blockdev", json.dumps({"driver": "file", "filename": str(disk), "node-name": "file"}),
            "-blockdev", json.dumps({"driver": "qcow2", "file": "file", "node-name": "disk"}),
            "-device", "virtio-blk-pci,drive=disk", "-netdev", "user,id=net",
            "-device", "virtio-net-pci,netdev=net,romfile=", "-object", "rng-builtin,id=rng",
            "-device", "virtio-rng-pci,rng=rng", "-device", "virtio-balloon-pci",
            "-device", "pvpanic", "-qmp", f"unix:{monitor},server=on,wait=off",
            "-serial", f"file:{directory}/console",
        ]
    )  # fmt: skip
    try:
        answered(monitor)
        return 1000 * (time.perf_counter() - begun)
    finally:
        qemu.kill()
        qemu.wait()
        disk.unlink()
        monitor.unlink(missing_ok=True)


class Deployed:
    """An agent on an empty tree, and the documents that are put there."""

    def __init__(self, agent: Running) -> None:
        self._agent = agent
        self.desired, self.state = agent.desired, agent.state
        self._made = 0

    def one_more(self) -> float:
        """A document written, its QEMU answering on the second monitor; milliseconds."""
        self._made += 1
        name = f"vm{self._made}"
        text = f"api: holdfast/v1\nkind: vm\nname: {name}\nmemory: 32MiB\nstop_timeout: 0s\n"
        part = self.desired / ".part"
        part.write_text(text)
        begun = time.perf_counter()
        part.rename(self.desired / f"{name}.yaml")
        answered(self.state.instance(self._uid(name)).metrics_socket)
        taken = 1000 * (time.perf_counter() - begun)
        (self.desired / f"{name}.yaml").unlink()
        self._agent.until(lambda: not self._instances(name), 0.01)
        return taken

    def _uid(self, name: str) -> Uid:
        self._agent.until(lambda: self._instances(name), 0.0005)
        return self._instances(name)[0]

    def _instances(self, name: str) -> list[Uid]:
        try:
            reader = Reader.open(self.state.database)
        except LedgerUnreadable:
            return []
        try:
            return [one.uid for one in reader.instances() if one.name == name]
        finally:
            reader.close()


@contextmanager
def deployed() -> Iterator[Deployed]:
    """An agent that runs while the block does."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        (root / "desired").mkdir()
        with (root / "desired/blank.raw").open("wb") as blank:
            blank.truncate(1 << 20)
        (root / "desired/images.yaml").write_text(IMAGES)
        with running(root) as agent:
            yield Deployed(agent)


def figure(rounds: int) -> Figure:
    """The figure, with what the contract allows beyond the floor."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory, deployed() as agent:
        base = Path(directory) / "base.raw"
        with base.open("wb") as blank:
            blank.truncate(1 << 20)
        samples = alternate(
            rounds,
            by_hand=lambda: by_hand(Path(directory), base),
            holdfast=agent.one_more,
        )
    floor = sorted(samples["by_hand"])[len(samples["by_hand"]) // 2]
    return Figure(
        "document to QMP answering", "ms", samples, floor + ALLOWED, f"floor + {ALLOWED:.0f} ms"
    )
