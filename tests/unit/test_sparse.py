"""Sparse files: holes for zeros, room asked for before it is taken, and a thread that loses and hides nothing."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.guest import sparse
from agent.guest.sparse import BATCH, DEPTH, Behind, SparseFile
from tests.waiting import eventually

MIB = 1 << 20
PIECE = MIB
NOISE = random.Random(1).randbytes(MIB)  # noqa: S311 - the same each time


def give(behind: Behind, pieces: int) -> None:
    for _ in range(pieces):
        behind.write(NOISE)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


def test_zeros_become_holes_and_cost_nothing(out: int) -> None:
    """Sabotage: count what is fed."""
    spent: list[int] = []
    file = SparseFile(out, spent.append)
    data = bytes(8 * MIB) + b"x" * 70_000 + bytes(8 * MIB) + b"y"
    for at in range(0, len(data), PIECE):
        file.write(data[at : at + PIECE])
    file.finish()
    assert os.pread(out, len(data) + 1, 0) == data
    assert 70_001 <= sum(spent) <= 70_001 + 3 * 65_536
    assert os.fstat(out).st_blocks * 512 < MIB


def test_what_may_not_be_spent_is_not_written(out: int) -> None:
    def refuse(size: int) -> None:
        if size:
            raise OSError("no")

    file = SparseFile(out, refuse)
    file.write(bytes(MIB))
    with pytest.raises(OSError, match="no"):
        file.write(b"x")
    assert os.fstat(out).st_size == 0


@pytest.mark.parametrize("length", [1, 1000, 65_536, 65_537, MIB])
def test_what_is_given_in_pieces_is_there_as_it_was(out: int, length: int) -> None:
    """Sabotage: take a block for a hole whose first byte alone is zero."""
    data = NOISE[:300_000] + bytes(200_000) + b"\0x" * 50_000 + bytes(70_000) + b"y" + bytes(9)
    behind = Behind(SparseFile(out, lambda _: None))
    for at in range(0, len(data), length):
        behind.write(data[at : at + length])
    assert behind.size == len(data)
    behind.finish()
    assert os.pread(out, len(data) + 1, 0) == data


async def test_an_error_of_the_disk_reaches_whoever_waits_for_it(out: int) -> None:
    """Sabotage: let the thread end with it. The giver then waits for room in its line, for ever."""
    gate = threading.Event()

    def full(_: int) -> None:
        gate.wait(60)
        raise OSError("no room")

    behind = Behind(SparseFile(out, full))
    async with asyncio.TaskGroup() as group:
        giving = group.create_task(refused(behind, 3 * DEPTH))
        await eventually(lambda: behind.size == (DEPTH + 2) * MIB, "it stands in line")
        gate.set()
        await giving
    with pytest.raises(OSError, match="no room"):
        behind.finish()
    behind.close()
    assert os.fstat(out).st_size == 0


async def refused(behind: Behind, pieces: int) -> None:
    with pytest.raises(OSError, match="no room"):
        await asyncio.to_thread(give, behind, pieces)


def test_a_giver_that_leaves_drops_what_it_gathered(out: int) -> None:
    behind = Behind(SparseFile(out, lambda _: None))
    behind.write(b"x" * (BATCH - 1))
    behind.close()
    behind.close()
    assert os.fstat(out).st_size == 0


async def test_whoever_gives_waits_for_a_disk_that_is_slower(out: int) -> None:
    """Sabotage: a line without an end. All of an image is then in memory."""
    gate = threading.Event()

    def slow(_: int) -> None:
        gate.wait(60)

    behind = Behind(SparseFile(out, slow))
    async with asyncio.TaskGroup() as group:
        giving = group.create_task(asyncio.to_thread(give, behind, 3 * DEPTH))
        await eventually(lambda: behind.size == (DEPTH + 2) * MIB, "it stands in line")
        assert not giving.done()
        gate.set()
    assert behind.size == 3 * DEPTH * MIB
    behind.finish()
    assert os.fstat(out).st_size == 3 * DEPTH * MIB


def test_it_is_synced_on_the_way(out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "SYNC_EVERY", 3 * MIB)
    file = SparseFile(out, lambda _: None)
    for _ in range(8):
        file.write(NOISE)
    file.finish()
    assert os.pread(out, 8 * MIB, 0) == 8 * NOISE
