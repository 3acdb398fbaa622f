"""The poller goes on, whatever a sweep meets."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.errors import RetryLater
from agent.hypervisor.api import Meter
from agent.hypervisor.memory import MemoryHost
from agent.metrics.poll import Poller
from state.clock import Moment
from state.ledger import Ledger
from state.samples import MetricsReader, MetricsUnusable
from tests.builders import running
from tests.contract.houses import MemoryHouse
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
    house, path = MemoryHouse(), tmp_path / "metrics.db"
    host = house.host
    path.mkdir()
    machine, hypervisor = house.machine(), house.agent()
    await hypervisor.open(lambda _uid, _word: None)
    await hypervisor.prepare(machine)
    instance = running(uid=machine.uid, process=await hypervisor.spawn(machine))
    with closing(Ledger(tmp_path / "state.db")) as ledger:
        with ledger.transaction() as change:
            change.put_instance(instance)
        task = asyncio.ensure_future(poller(tmp_path, ledger, host.backend().meter).run())
        await eventually(lambda: host.calls["read"] > 3, "it goes on")
        path.rmdir()
        await eventually(lambda: kept(path) == [instance.uid], "what comes later is kept")
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("harm", ["removed", "damaged"])
async def test_what_is_removed_or_damaged_while_it_is_written_is_made_anew(
    tmp_path: Path, harm: str
) -> None:
    """Sabotage: keep the database open, whatever becomes of it."""
    house, path = MemoryHouse(), tmp_path / "metrics.db"
    machine, hypervisor = house.machine(), house.agent()
    await hypervisor.open(lambda _uid, _word: None)
    await hypervisor.prepare(machine)
    instance = running(uid=machine.uid, process=await hypervisor.spawn(machine))
    with closing(Ledger(tmp_path / "state.db")) as ledger:
        with ledger.transaction() as change:
            change.put_instance(instance)
        task = asyncio.ensure_future(poller(tmp_path, ledger, house.host.backend().meter).run())
        await eventually(lambda: kept(path) == [instance.uid], "it is kept")
        if harm == "removed":
            for part in ("", "-wal", "-shm"):
                path.with_name(path.name + part).unlink()
        else:
            with path.open("r+b") as file:
                file.write(b"no database" * 1000)
        await eventually(lambda: kept(path) == [instance.uid], "it is kept again")
        task.cancel()
        await asyncio.wait([task])


def kept(path: Path) -> list[str]:
    with suppress(MetricsUnusable), closing(MetricsReader(path)) as reader:
        return [one.uid for one in reader.series()]
    return []


def poller(root: Path, ledger: Ledger, meter: Meter) -> Poller:
    return Poller(meter, ledger, root / "metrics.db", lambda: Moment(1.7e9, 1.0, "b"), 0.01)
