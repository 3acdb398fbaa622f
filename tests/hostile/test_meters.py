"""Whatever answers at the second monitor of a machine, that machine alone is left out, and soon."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.hypervisor.qemu import meter, process
from agent.hypervisor.qemu.meter import QemuMeter
from agent.paths import StatePaths
from state.ids import Process, Uid
from tests.hostile.monitors import GREETING, WORDS, dripping, saying

WELL = Uid("00000000-0000-5000-8000-000000000001")
OTHER = Uid("00000000-0000-5000-8000-000000000002")
STATS = {
    "rd_bytes": 1, "wr_bytes": 2, "rd_operations": 3, "wr_operations": 4, "rd_total_time_ns": 5,
    "wr_total_time_ns": 6,
}  # fmt: skip


def said(uid: Uid, **stats: Any) -> bytes:
    """All that a machine answers to the first batch."""
    block = {"node-name": "root", "qdev": "/machine/root", "stats": STATS | stats}
    returned: list[Any] = [
        {}, {"UUID": uid}, [{"thread-id": os.getpid()}], {}, {"status": "running"}, [block],
        {"actual": 1 << 20}, {"stats": {"stat-total-memory": meter.UNKNOWN}},
    ]  # fmt: skip
    return GREETING + b"".join(json.dumps({"return": one}).encode() + b"\n" for one in returned)


HOSTILE = {
    **WORDS,
    "another machine": said(WELL),
    "a counter that no database holds": said(OTHER, wr_bytes=1 << 63),
    "a counter without an end": said(OTHER, rd_total_time_ns=10**400),
    "a counter below nothing": said(OTHER, rd_bytes=-1),
    "a counter that is none": said(OTHER, rd_operations=1.5),
    "a thread without a number": said(OTHER).replace(f"{os.getpid()}".encode(), b"Infinity"),
    "a thread of a vast number": said(OTHER).replace(f"{os.getpid()}".encode(), b"1e999"),
    "a counter of no number": said(OTHER).replace(b'"rd_bytes": 1', b'"rd_bytes": NaN'),
}


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    made = StatePaths(tmp_path)
    for uid in (WELL, OTHER):
        made.instance(uid).sockets.mkdir(parents=True)
        made.instance(uid).directory.mkdir(parents=True)
    return made


def mine() -> Process:
    found = process.identify(os.getpid(), process.boot_id())
    assert found is not None
    return found


async def told(paths: StatePaths) -> set[Uid]:
    """Whose use is told, beside a machine that answers as it should and is asked last."""
    async with asyncio.timeout(10 * meter.ANSWER), saying(said(WELL), socket(paths, WELL)):
        with closing(QemuMeter(paths, lambda _: True)) as reading:
            return set(await reading.read({OTHER: mine(), WELL: mine()}))


def socket(paths: StatePaths, uid: Uid) -> Path:
    return paths.instance(uid).metrics_socket


async def test_who_answers_as_qemu_does_is_told(paths: StatePaths) -> None:
    async with saying(said(OTHER), socket(paths, OTHER)):
        assert await told(paths) == {WELL, OTHER}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
async def test_who_answers_otherwise_is_left_out(paths: StatePaths, words: bytes) -> None:
    """Sabotage: leave RecursionError uncaught, or take every number. The agent ends then, with all that it looks
    after."""
    async with saying(words, socket(paths, OTHER)):
        assert await told(paths) == {WELL}


async def test_disks_that_are_not_ours_are_no_labels_and_ours_are_told_once(
    paths: StatePaths,
) -> None:
    """Sabotage: tell of whatever has a name. A QEMU makes up many, and each is a series of Prometheus."""
    [block] = [line for line in said(OTHER).splitlines() if b"node-name" in line]
    one = json.loads(block)["return"][0]
    many = [one, one | {"node-name": "made up"}, one | {"stats": STATS | {"wr_bytes": 9}}]
    words = said(OTHER).replace(block, json.dumps({"return": many}).encode())
    async with saying(words, socket(paths, OTHER)):
        with closing(QemuMeter(paths, lambda _: True)) as reading:
            found = await reading.read({OTHER: mine()})
    assert [(disk.name, disk.written_bytes) for disk in found[OTHER].disks] == [("root", 9)]


async def test_who_answers_a_byte_at_a_time_is_not_waited_for(paths: StatePaths) -> None:
    """Sabotage: give each byte the time of an answer."""
    async with dripping(socket(paths, OTHER)):
        assert await told(paths) == {WELL}
