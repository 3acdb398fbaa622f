"""Reads what machines use: from the second monitor of each QEMU, and from `/proc`.

One batch of questions is written to every monitor before the first answer is read, and nobody is waited for longer than
the others are: a machine that says nothing is left out. All that is done in a thread of its own, with plain sockets:
qemu.qmp takes twice as long for a sweep over many machines, and the event loop half as long again. Nothing is ever
commanded over these connections but that the balloon driver of the guest tells its statistics
(`guest-stats-polling-interval`, docs/interop/virtio-balloon-stats.rst of QEMU).
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.hypervisor.api import RunState
from agent.hypervisor.qemu import process
from agent.hypervisor.qemu.argv import ROOT_NODE, SEED_NODE
from agent.hypervisor.qemu.monitor import STATES
from agent.paths import InstancePaths, StatePaths
from agent.worker import Worker
from state.ids import Process, Uid
from state.usage import MOST, DiskUsage, Usage

ANSWER = 1.0
"""Seconds in which the machines have to answer, all together."""
GRACE = 0.02
"""Seconds that each is given all the same when those are over: its answer may lie there, behind somebody's silence."""
LONGEST_LINE = 1 << 20
"""Bytes of one answer. QEMU may belong to its guest: what is longer ends the connection."""
MOST_DISKS, MOST_CPUS = 64, 1024
"""More than any machine of ours has."""
_DISKS = (ROOT_NODE, SEED_NODE)
STATISTICS_EVERY = 6
"""Sweeps from one question for the memory in a guest to the next: it doubles what a sweep costs, and changes slowly."""
BALLOON = "/machine/peripheral/balloon"
STATISTICS_INTERVAL = 10
"""Seconds between two looks that the balloon driver takes at its guest."""
UNKNOWN = (1 << 64) - 1
"""What QEMU says for a statistic that the guest never told."""


def _batch(*commands: tuple[str, Mapping[str, object] | None]) -> bytes:
    words = ({"execute": name} | ({"arguments": said} if said else {}) for name, said in commands)
    return b"".join(json.dumps(one).encode() + b"\n" for one in words)


_HELLO = _batch(
    ("qmp_capabilities", None),
    ("query-uuid", None),
    ("query-cpus-fast", None),
    ("qom-set", {
        "path": BALLOON, "property": "guest-stats-polling-interval", "value": STATISTICS_INTERVAL,
    }),
)  # fmt: skip
_ALWAYS = _batch(("query-status", None), ("query-blockstats", None))
_SELDOM = _batch(("query-balloon", None), ("qom-get", {"path": BALLOON, "property": "guest-stats"}))
_NO_QMP = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What comes of taking another value for the one that QMP promises."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a machine said in one sweep."""

    state: RunState
    disks: tuple[DiskUsage, ...]


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a guest has of memory, as it was last told."""

    balloon: int | None = None
    total: int | None = None
    available: int | None = None


class QemuMeter:
    """The usage of the QEMUs of one state directory."""

    def __init__(
        self,
        paths: StatePaths,
        responsive: Callable[[Uid], bool],
        heard: Callable[[Uid, RunState], None] = lambda _uid, _state: None,
    ) -> None:
        """`responsive` says whether a machine answers on its other monitor: one that does not is not asked. `heard` is
        told the state of each that answers here."""
        self._paths, self._responsive, self._heard = paths, responsive, heard
        self._lines: dict[Uid, _Line] = {}
        self._sweeps = 0
        self._worker: Worker | None = None

    async def read(self, machines: Mapping[Uid, Process]) -> Mapping[Uid, Usage]:
        """What each of them uses; one that does not answer within a second, or has ended, is left out."""
        self._worker = self._worker or Worker("meter")
        asked = [uid for uid in machines if self._responsive(uid)]
        found = await self._worker.submit(partial(self._sweep, dict(machines), asked))
        for uid, usage in found.items():
            self._heard(uid, usage.state)
        return found

    def close(self) -> None:
        """Let go of every monitor."""
        if self._worker is not None:
            self._worker.leave(self._hang_up)
            self._worker = None

    def _hang_up(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def _sweep(self, machines: Mapping[Uid, Process], asked: Iterable[Uid]) -> dict[Uid, Usage]:
        self._sweeps += 1
        for uid in [uid for uid, line in self._lines.items() if machines.get(uid) != line.process]:
            self._lines.pop(uid).close()
        lines = [
            self._lines.get(uid) or self._begun(uid, machines[uid])  # its paths are made once
            for uid in asked
        ]
        end = time.monotonic() + ANSWER
        for number, line in enumerate(lines):
            line.send(seldom=(self._sweeps + number) % STATISTICS_EVERY == 0)
        found = {}
        for line in lines:
            answer = line.receive(max(end, time.monotonic() + GRACE))
            if answer is not None and (usage := _measured(line, answer)) is not None:
                found[line.uid] = usage
        return found

    def _begun(self, uid: Uid, who: Process) -> _Line:
        line = self._lines[uid] = _Line(self._paths.instance(uid), uid, who)
        return line


class _Line:
    """The connection to one machine's second monitor: made when it is first asked, and anew after whatever ended it."""

    def __init__(self, mine: InstancePaths, uid: Uid, who: Process) -> None:
        self.uid, self.process, self.disk = uid, who, mine.disk
        self.vcpus: tuple[int, ...] = ()
        self.memory = _Memory()
        self._path = os.fspath(mine.metrics_socket)
        self._socket: socket.socket | None = None
        self._heard = bytearray()
        self._greeted = self._seldom = False

    def close(self) -> None:
        # A late answer must not be taken for that of the next batch.
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._heard.clear()
        self._greeted = False

    def send(self, *, seldom: bool) -> None:
        """Ask, without waiting; `seldom`: also for its memory."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(GRACE)
                self._socket.connect(self._path)
                # Python polls a socket that has a timeout before each call, ready or not: half of what a sweep costs.
                self._socket.setblocking(False)
            self._seldom = seldom or not self._greeted
            hello = b"" if self._greeted else _HELLO
            batch = hello + _ALWAYS + (_SELDOM if self._seldom else b"")
            if self._socket.send(batch) < len(batch):
                self.close()  # it does not read
        except OSError:
            self.close()

    def receive(self, end: float) -> _Answer | None:
        """What it says of its state and disks; None where it does not answer until `end`, and as it should."""
        if self._socket is None:
            return None
        try:
            if not self._greeted:
                self._greet(end)
            status, blocks = self._returned(2, end)
            if self._seldom:
                self.memory = _memory(*self._returned(2, end))
            return _Answer(STATES.get(status["status"], RunState.OTHER), _disks(blocks))
        except (OSError, *_NO_QMP):
            self.close()
            return None

    def _greet(self, end: float) -> None:
        _, told, cpus, _ = self._returned(4, end)
        if told["UUID"] != self.uid:
            raise ValueError("another machine answers")
        self.vcpus = tuple(int(cpu["thread-id"]) for cpu in cpus[:MOST_CPUS])
        self._greeted = True

    def _returned(self, number: int, end: float) -> list[Any]:
        """The next so many answers, None for one that was refused; events between them are passed over."""
        found: list[Any] = []
        while len(found) < number:
            # Of bytes, it would find out first which encoding they are in: a fifth of what it takes.
            said = json.loads(self._line(end).decode("utf-8", "surrogatepass"))
            if "return" in said or "error" in said:
                found.append(said.get("return"))
        return found

    def _line(self, end: float) -> bytes:
        """The next line. Raises TimeoutError, also where it comes a byte at a time."""
        assert self._socket is not None  # noqa: S101 - `send` connects first
        while (at := self._heard.find(b"\n")) < 0:
            if len(self._heard) > LONGEST_LINE:
                raise ValueError("a line without an end")
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                piece = self._socket.recv(1 << 16)
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self._socket, select.POLLIN)
                waiting.poll(1000 * left)
                continue
            if not piece:
                raise ConnectionResetError
            self._heard += piece
        line = bytes(self._heard[: at + 1])
        del self._heard[: at + 1]
        return line


def _disks(blocks: list[dict[str, Any]]) -> tuple[DiskUsage, ...]:
    """Of our disks, each once; what lies below one is counted there (`query-blockstats`, qapi/block-core.json)."""
    found = (
        DiskUsage(
            name=block["node-name"],
            read_bytes=_count(stats["rd_bytes"]),
            written_bytes=_count(stats["wr_bytes"]),
            reads=_count(stats["rd_operations"]),
            writes=_count(stats["wr_operations"]),
            read_seconds=_count(stats["rd_total_time_ns"]) / 1e9,
            write_seconds=_count(stats["wr_total_time_ns"]) / 1e9,
        )
        for block in blocks[:MOST_DISKS]
        if block.get("node-name") in _DISKS and "qdev" in block and (stats := block["stats"])
    )
    return tuple({one.name: one for one in found}.values())


def _memory(balloon: dict[str, Any] | None, statistics: dict[str, Any] | None) -> _Memory:
    stats = (statistics or {}).get("stats") or {}
    return _Memory(
        _known((balloon or {}).get("actual")),
        _known(stats.get("stat-total-memory")),
        _known(stats.get("stat-available-memory")),
    )


def _known(number: object) -> int | None:
    return None if number is None or number == UNKNOWN else _count(number)


def _count(number: object) -> int:
    if not isinstance(number, int) or not 0 <= number <= MOST:
        raise ValueError("it is no counter")
    return number


def _measured(line: _Line, answer: _Answer) -> Usage | None:
    """With what the kernel says of it, in about 0.1 ms; None where it is gone."""
    spent = process.spent(line.process, line.vcpus)
    if spent is None:
        return None
    try:
        allocated: int | None = os.stat(line.disk).st_blocks * 512
    except OSError:
        allocated = None
    return Usage(
        process=line.process,
        state=answer.state,
        cpu_seconds=spent.cpu,
        vcpu_seconds=spent.threads,
        resident_bytes=spent.resident,
        allocated_bytes=allocated,
        disks=answer.disks,
        balloon_bytes=line.memory.balloon,
        guest_total_bytes=line.memory.total,
        guest_available_bytes=line.memory.available,
    )
