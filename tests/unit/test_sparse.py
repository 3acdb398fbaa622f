"""Sparse files: holes for zeros, room asked for before it is taken, and a disk whose errors are not lost."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.guest import sparse
from agent.guest.sparse import Beside, SparseFile
from tests.waiting import eventually

MIB = 1 << 20
PIECE = MIB
NOISE = random.Random(1).randbytes(MIB)  # noqa: S311 - the same each time


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
    file = SparseFile(out, lambda _: None)
    for at in range(0, len(data), length):
        file.write(memoryview(data)[at : at + length])
    assert file.size == len(data)
    file.finish()
    file.close()
    assert os.pread(out, len(data) + 1, 0) == data


@pytest.mark.parametrize("length", [1000, 65_537, MIB - 1])
def test_a_hole_is_one_however_its_bytes_were_cut(out: int, length: int) -> None:
    """Sabotage: begin a block where a piece begins. The ends of holes are then written."""
    data = (NOISE[:65_536] + bytes(65_536)) * 32
    spent: list[int] = []
    file = SparseFile(out, spent.append)
    for at in range(0, len(data), length):
        file.write(data[at : at + length])
    file.finish()
    assert sum(spent) == len(data) // 2
    assert os.pread(out, len(data) + 1, 0) == data


async def test_an_error_of_the_disk_reaches_whoever_asked_it() -> None:
    """Sabotage: let the thread end with it. The asker then waits for it, for ever."""

    def broken() -> None:
        raise OSError("it is gone")

    disk = Beside(broken)
    with pytest.raises(OSError, match="it is gone"):
        await asyncio.to_thread(ask, disk, 5, [])
    disk.leave()
    with pytest.raises(OSError, match="it is gone"):
        disk.check()
    disk.leave()


def ask(disk: Beside, times: int, asked: list[int]) -> None:
    for number in range(times):
        disk.ask()
        asked.append(number)


async def test_whoever_asks_waits_for_a_disk_that_is_slower() -> None:
    """Sabotage: a line without an end. All of an image is then held by the system, and its last sync takes as long."""
    begun, gate, asked = threading.Event(), threading.Event(), list[int]()

    def slow() -> None:
        begun.set()
        gate.wait(60)

    disk = Beside(slow)
    disk.ask()
    assert await asyncio.to_thread(begun.wait, 60)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(asyncio.to_thread(ask, disk, 5, asked))
        await eventually(lambda: len(asked) == 1, "it stands in line")
        assert not asking.done()
        gate.set()
    assert len(asked) == 5
    disk.leave()
    assert disk_threads() == []


def disk_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "disk of an image"]


def test_it_is_synced_on_the_way(out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: never ask. All of it is then left to the end."""
    monkeypatch.setattr(sparse, "SYNC_EVERY", 3 * MIB)
    file = SparseFile(out, lambda _: None)
    for _ in range(8):
        file.write(NOISE)
    assert len(disk_threads()) == 1
    file.finish()
    assert disk_threads() == []
    assert os.pread(out, 8 * MIB, 0) == 8 * NOISE
