"""The guest that every contender starts: 32 MiB, an overlay on a virtio disk, its serial line to a file; and how to see
that it is up."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from agent.hypervisor.api import TCG_BUFFER
from agent.hypervisor.qemu.argv import TCG_CPU

IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: blank
images:
  blank: {source: blank.raw, format: raw, nocloud: false}
"""
MEMORY = 32
"""MiB."""
BLANK = 1 << 20
"""Bytes of the disk below every overlay, all zeros: there is nothing to boot."""
PATIENCE = 60.0
"""Seconds."""
_QUESTION = b'{"execute":"qmp_capabilities"}{"execute":"query-status"}'


def blank(path: Path) -> Path:
    """The disk below every overlay, made there."""
    with path.open("wb") as file:
        file.truncate(BLANK)
    return path


def by_hand(directory: Path) -> list[str]:
    """QEMU's words for it in `directory`, with the devices that holdfast gives it, inert as a paused one is."""
    file = {"driver": "file", "filename": str(directory / "disk.qcow2"), "node-name": "file"}
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-S",
        "-machine", "pc", "-accel", f"tcg,thread=multi,tb-size={TCG_BUFFER >> 20}", "-cpu", TCG_CPU,
        "-m", f"{MEMORY}M",
        "-blockdev", json.dumps(file),
        "-blockdev", json.dumps({"driver": "qcow2", "file": "file", "node-name": "disk"}),
        "-device", "virtio-blk-pci,drive=disk", "-netdev", "user,id=net",
        "-device", "virtio-net-pci,netdev=net,romfile=", "-object", "rng-builtin,id=rng",
        "-device", "virtio-rng-pci,rng=rng", "-device", "virtio-balloon-pci",
        "-device", "pvpanic", "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
        "-serial", f"file:{directory}/console",
    ]  # fmt: skip


def answered(monitor: Path, lives: Callable[[], bool]) -> None:
    """Wait until the monitor has answered `query-status`. Raises RuntimeError where whoever is to answer does not live,
    or does not answer within a minute."""
    end = time.monotonic() + PATIENCE
    while not _answers(monitor):
        if not lives() or time.monotonic() > end:
            raise RuntimeError(f"{monitor} does not answer")
        time.sleep(0.002)


def _answers(monitor: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE)
        try:
            line.connect(os.fspath(monitor))
            line.sendall(_QUESTION)
            said = b""
            while b'"running"' not in said:
                piece = line.recv(4096)
                if not piece:
                    return False
                said += piece
        except OSError:
            return False
    return True
