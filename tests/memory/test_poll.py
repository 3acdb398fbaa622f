"""The poller goes on, whatever a sweep meets."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from agent.errors import RetryLater
from agent.hypervisor.api import Meter
from agent.hypervisor.memory import MemoryHost
from agent.metrics.poll import Poller
from state.clock import Moment
from state.ids import Uid
from state.ledger import Ledger
from state.samples import MetricsReader, MetricsUnusable
from tests.builders import running
from tests.contract.houses import MemoryHouse
from tests.trees import NOW
from tests.waiting import eventually


@pytest.mark.parametrize("bug", [RetryLater("no thread"), ZeroDivisionError("a bug")])
async def test_a_sweep_that_fails_costs_no_other(tmp_path: Path, bug: Exception) -> None:
    """Sabotage: let it end the task, and with that the agent."""
    host = MemoryHost()
    host.failures["read"] = [bug, bug]  # type: ignore[list-item]  # any error at all
    with closing(Ledger(tmp_path / "state.db")) as ledger:
        instance = running()
        with ledger.transaction() as change:
            change.put_instance(instance)
        task = asyncio.ensure_future(poller(tmp_path, ledger, host.backend().meter).run())
        await eventually(lambda: host.calls["read"] > 3, "it goes on")
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


async def test_what_a_full_disk_refuses_is_dropped_and_what_comes_later_kept(
    tmp_path: Path,
) -> None:
    """The place of the database is a directory, until it is not."""
    path = tmp_path / "metrics.db"
    path.mkdir()
    async with polling(tmp_path) as (host, uid):
        await eventually(lambda: host.calls["read"] > 3, "it goes on")
        path.rmdir()
        await eventually(lambda: kept(path) == [uid], "what comes later is kept")


@pytest.mark.parametrize("harm", ["removed", "emptied"])
async def test_what_is_removed_or_spoilt_while_it_is_written_is_made_anew(
    tmp_path: Path, harm: str
) -> None:
    """Sabotage: keep the database open, whatever becomes of it."""
    path = tmp_path / "metrics.db"
    async with polling(tmp_path) as (_, uid):
        await eventually(lambda: kept(path) == [uid], "it is kept")
        if harm == "removed":
            for part in ("-shm", "-wal", ""):
                path.with_name(path.name + part).unlink(missing_ok=True)
        else:
            with closing(sqlite3.connect(path, timeout=10.0)) as database:
                database.executescript("DROP TABLE looks; PRAGMA user_version = 0")
        await eventually(lambda: looks(path) > 0, "it is kept again")


@asynccontextmanager
async def polling(root: Path) -> AsyncIterator[tuple[MemoryHost, Uid]]:
    """A machine is polled while the block lasts; its host, and its uid."""
    house = MemoryHouse()
    machine, hypervisor = house.machine(), house.agent()
    await hypervisor.open(lambda _uid, _word: None)
    await hypervisor.prepare(machine)
    instance = running(uid=machine.uid, process=await hypervisor.spawn(machine))
    with closing(Ledger(root / "state.db")) as ledger:
        with ledger.transaction() as change:
            change.put_instance(instance)
        task = asyncio.ensure_future(poller(root, ledger, house.host.backend().meter).run())
        try:
            yield house.host, machine.uid
        finally:
            task.cancel()
            await asyncio.wait([task])


def kept(path: Path) -> list[str]:
    with suppress(MetricsUnusable), closing(MetricsReader(path)) as reader:
        return [one.uid for one in reader.series()]
    return []


def looks(path: Path) -> int:
    with suppress(MetricsUnusable), closing(MetricsReader(path)) as reader:
        return sum(map(len, reader.recent(NOW).values()))
    return 0


def poller(root: Path, ledger: Ledger, meter: Meter) -> Poller:
    return Poller(meter, ledger, root / "metrics.db", lambda: Moment(NOW, 1.0, "b"), 0.01)
