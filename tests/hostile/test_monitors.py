"""Whatever answers at the socket of a monitor, it is told, and neither raises nor is commanded."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from agent.errors import MonitorError
from agent.hypervisor.qemu.monitor import Monitor, Timing
from state.ids import Uid
from tests.hostile.monitors import WORDS, saying
from tests.waiting import eventually

TIMING = Timing(heartbeat=0.1, question=0.2, silence=0.1, command=0.3, connect=0.3)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
async def test_what_is_no_monitor_is_told_and_asked_again(words: bytes, tmp_path: Path) -> None:
    heard: list[str] = []
    socket = tmp_path / "qmp"
    monitor = Monitor(socket, Uid("0" * 8 + "-0000-0000-0000-" + "0" * 12), TIMING, heard.append)
    async with asyncio.timeout(30), saying(words, socket):
        running = asyncio.ensure_future(monitor.run())
        try:
            await eventually(lambda: not monitor.view.responsive, "it is told")
            assert monitor.view.detail
            assert len(monitor.view.detail) < 1000
            with pytest.raises(MonitorError):
                await monitor.execute("stop")
            assert not running.done()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
