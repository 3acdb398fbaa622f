"""What is fuzzed: three readers, each with what must hold whatever the bytes are, and bytes to begin from.

A target returns when all was as it must be, and raises where it was not.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agent.errors import BadInput
from agent.guest import inspection, qcow2
from agent.hypervisor.qemu.monitor import Monitor, Timing
from agent.source.documents import File, read_documents
from agent.source.yaml import load_mapping
from state.ids import Uid
from tests.hostile.monitors import GREETING, WORDS
from tests.trees import MAP, NoFiles, job, vm

FOUND = Path(__file__).with_name("found")
"""Inputs that once broke a target, in a directory for each."""


@dataclass(frozen=True, slots=True)
class Target:
    """`longest` is in bytes."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    longest: int = 4096


# Documents


def documents(data: bytes) -> None:
    """Whatever a file holds, it is documents and problems, and each problem lies within the document's lines."""
    end = data.count(b"\n") + data.count(b"\r") + 2
    readings = read_documents(File("x", "x"), data, NoFiles())
    for at, reading in enumerate(readings):
        after = readings[at + 1].ref.line - 1 if at + 1 < len(readings) else end
        assert (reading.document is None) == bool(reading.problems), reading
        for problem in reading.problems:
            assert str(problem).isprintable(), problem
            assert len(str(problem)) < 2000, problem
            assert reading.ref.line <= problem.line <= after, problem
            assert problem.column >= 1, problem
            json.dumps(problem.message).encode()
    with suppress(BadInput):
        load_mapping(data, "config.yaml")


_DOCUMENTS = (
    vm("web", "cpus: 2", "ports: [{host: 8080, guest: 80}]", "network: {egress: false}").encode(),
    vm("db", "user_data: |", "  #cloud-config", "health: {tcp: 80, interval: 10s}").encode(),
    job("t", "env: {A: b}", "secrets: [A]", "artifacts: ['/a/**/*.xml']", "retries: {script: 1}").encode(),
    MAP.encode(),
    "---\n".join([vm("a"), job("b"), "# nothing\n"]).encode(),
    b"a: &a [1, 2]\nb: *a\n<<: {c: 'd'}\ne: !!str \"\\x41\\0\"\n",
)  # fmt: skip


# The qcow2 inspector


def inspector(data: bytes) -> None:
    """A sound file whose first bytes are changed by these (with exclusive or) is refused with a reason, or qemu-img
    agrees on the size of what it then reads, or refuses that too."""
    sound = _sound()
    content = bytes(a ^ b for a, b in zip(sound, data, strict=False)) + sound[len(data) :]
    refused = _refusal(content)
    assert refused.isprintable(), refused
    # Where both read it, both must read the same.
    assert "bytes for a guest" not in refused, refused
    assert "did not come to an end" not in refused, refused


def _refusal(content: bytes) -> str:
    descriptor = os.memfd_create("image")
    try:
        size = qcow2.virtual_size(content[: qcow2.HEADER_LENGTH])
        assert 0 < size <= qcow2.MAX_VIRTUAL_SIZE
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        inspection.check(descriptor, size, None)
    except qcow2.NotUsable as error:
        return str(error)
    finally:
        os.close(descriptor)
    return ""


@cache
def _sound() -> bytes:
    with tempfile.TemporaryDirectory(prefix="hf-") as place:
        path = Path(place) / "disk"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"]
        subprocess.run(words, check=True)
        return path.read_bytes()


# The reader of QMP

UID = Uid("01234567-89ab-cdef-0123-456789abcdef")
_HONEST: tuple[dict[str, Any], ...] = ({}, {"UUID": UID}, {"status": "running", "running": True})
"""What QEMU returns for the first commands of a monitor: qmp_capabilities, query-uuid, query-status."""
_TIMING = Timing(heartbeat=5, question=0.01, silence=5, command=5, connect=5, breath=0)
_LATEST = 10.0


def monitor(data: bytes) -> None:
    """Whatever stands in the place of a QEMU: its first byte says after how many honest answers the rest of it is said,
    and the line is then closed. It is told as a sentence, and nothing else comes of it."""
    asyncio.run(_listened(data))


async def _listened(data: bytes) -> None:
    amiss: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: amiss.append(told))
    with tempfile.TemporaryDirectory(prefix="hf-") as place:
        socket = Path(place) / "qmp"

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.close()
            with suppress(OSError):
                await _says(data, reader, writer)
            writer.close()

        server = await asyncio.start_unix_server(talk, socket)
        one = Monitor(socket, UID, _TIMING, lambda _: None)
        running = asyncio.ensure_future(one.run())
        told = await one.until(lambda view: not view.responsive, _LATEST)
        assert not running.done(), running.exception()
        assert told, "it is not told that the monitor was lost"
        assert one.view.detail.isprintable(), one.view
        assert 0 < len(one.view.detail) < 1000, one.view
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        server.close()
    assert not amiss, amiss


async def _says(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    honest = data[0] % (len(_HONEST) + 2) if data else 0
    if honest:
        writer.write(GREETING)
    for returned in _HONEST[: max(0, honest - 1)]:
        asked = json.loads(await reader.read(1 << 16) or b"{}")
        answer = {"return": returned} | ({"id": asked["id"]} if "id" in asked else {})
        writer.write(json.dumps(answer).encode() + b"\n")
    if honest:
        await reader.read(1 << 16)
    writer.write(data[1:])
    await writer.drain()


_MONITOR = (
    *(bytes([0]) + words[:2000] for words in WORDS.values()),
    bytes([1]) + b'{"return": {}}\n{"return": {"UUID": "%s"}, "id": "__qmp#00000"}\n' % UID.encode(),
    bytes([2]) + b'{"return": {"UUID": [1]}, "id": "__qmp#00000"}\n',
    bytes([3]) + b'{"return": {"status": "paused"}, "id": "__qmp#00001"}\n',
    bytes([3]) + b'{"error": {"class": "GenericError", "desc": "no"}, "id": "__qmp#00001"}\n',
    bytes([4]) + b'{"event": "SHUTDOWN", "timestamp": {"seconds": 1, "microseconds": 2}, "data": {"reason": "x"}}\n',
    bytes([4]) + b'{"event": "BLOCK_IO_ERROR", "timestamp": {}, "data": {"reason": "\\u001b[2J"}}\n',
)  # fmt: skip


TARGETS = {
    "documents": Target(documents, _DOCUMENTS),
    "inspector": Target(inspector, (bytes(104), bytes(512)), longest=512),
    "monitor": Target(monitor, _MONITOR),
}
