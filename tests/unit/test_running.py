"""What supervision does when something goes wrong that is no fault of the machine: it goes on, and says so."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.hypervisor.api import Exit
from agent.hypervisor.qemu import process
from agent.hypervisor.qemu.monitor import Timing
from agent.hypervisor.qemu.process import Handle
from agent.hypervisor.qemu.rounds import Rounds
from agent.hypervisor.qemu.running import Running
from agent.paths import InstancePaths
from state.ids import Uid
from tests.waiting import eventually

UID = Uid("11111111-2222-4333-8444-555555555555")
UNREADABLE = Path("/", "x" * 1000)
"""No file system has such a name: whatever looks at it meets an OSError that is not *it is not there*."""
BAD_CLOCK: dict[str, Any] = {"first_pause": "soon"}


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


@asynccontextmanager
async def supervised(
    files: Path, sockets: Path, **timing: Any
) -> AsyncIterator[tuple[Running, asyncio.Task[Exit], subprocess.Popen[bytes]]]:
    """A process without a monitor, and the supervision of it."""
    with sleeper() as child:
        who = process.identify(child.pid, process.boot_id())
        assert who is not None
        held = Handle.hold(who)
        assert held is not None
        quick = replace(Timing(heartbeat=0.05, question=0.1), **timing)
        mine, rounds = InstancePaths(files, sockets), Rounds(quick.heartbeat)
        running = Running(UID, held, mine, quick, rounds, lambda _: None)
        task = asyncio.ensure_future(running.supervise())
        try:
            yield running, task, child
        finally:
            child.kill()
            await asyncio.wait((task,))
            held.close()


async def test_files_that_cannot_be_looked_at_end_no_supervision(tmp_path: Path) -> None:
    """Sabotage: let an OSError out of the look. The machine is then let go of, adopted, and let go of."""
    async with supervised(UNREADABLE, tmp_path) as (running, task, child):
        await eventually(lambda: running.monitor.remark or task.done(), "it was said")
        assert "its files cannot be looked after" in running.monitor.remark
        child.kill()
        assert (await task).status in (None, -9)


async def test_a_bug_in_listening_is_told_and_listening_begun_again(tmp_path: Path) -> None:
    """Sabotage: let the error of a task beside it end the supervision."""
    async with supervised(tmp_path, tmp_path, **BAD_CLOCK) as (running, task, child):
        await eventually(lambda: "bug" in running.view.detail or task.done(), "it was said")
        assert not running.view.responsive
        assert "TypeError" in running.view.detail
        child.kill()
        await task
