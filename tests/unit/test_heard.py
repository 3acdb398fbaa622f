"""A machine that tells its state on one monitor is not asked for it on the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.hypervisor.api import RunState
from agent.hypervisor.qemu.monitor import Monitor, Timing
from state.ids import Uid
from tests.waiting import DEADLINE, eventually

UID = Uid("11111111-2222-4333-8444-555555555555")
TIMING = Timing(question=0.05, breath=0.01, elsewhere=DEADLINE)


class Asked:
    """A monitor that answers as QEMU does, and how often it was asked for the state."""

    def __init__(self, at: Path) -> None:
        self.at, self.questions, self.status = at, 0, "running"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
        self._say(writer, {"QMP": {"version": version, "capabilities": []}})
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                # QEMU's library ends no line.
                said = json.loads(await _object(reader))
                self.questions += said["execute"] == "query-status"
                told = {
                    "query-uuid": {"UUID": UID},
                    "query-status": {"status": self.status, "running": True},
                }.get(said["execute"], {})
                whose = {"id": said["id"]} if "id" in said else {}
                self._say(writer, {"return": told, **whose})
        writer.close()

    def _say(self, writer: asyncio.StreamWriter, what: object) -> None:
        writer.write(json.dumps(what).encode() + b"\r\n")


async def _object(reader: asyncio.StreamReader) -> bytes:
    """The next JSON object, whose texts hold no braces."""
    said = await reader.readuntil(b"}")
    while said.count(b"{") > said.count(b"}"):
        said += await reader.readuntil(b"}")
    return said


@asynccontextmanager
async def watched(at: Path, timing: Timing = TIMING) -> AsyncIterator[tuple[Asked, Monitor]]:
    asked = Asked(at)
    monitor = Monitor(at, UID, timing, lambda _: None)
    async with await asyncio.start_unix_server(asked.answer, at):
        running = asyncio.ensure_future(monitor.run())
        try:
            await eventually(lambda: monitor.view.state is RunState.RUNNING, "it is known")
            yield asked, monitor
        finally:
            running.cancel()
            await asyncio.wait((running,))


async def test_one_that_was_heard_is_not_asked_until_there_is_news(tmp_path: Path) -> None:
    """Sabotage: ask each, whatever it has told elsewhere. Or take a state that has changed for no news."""
    async with watched(tmp_path / "a") as (heard, monitor), watched(tmp_path / "b") as (other, _):
        monitor.heard_elsewhere(RunState.RUNNING)
        before, others = heard.questions, other.questions
        await eventually(lambda: other.questions > others + 8, "another is asked again and again")
        assert heard.questions <= before + 1  # one may have been on its way
        heard.status = "paused"
        monitor.heard_elsewhere(RunState.PAUSED)
        await eventually(lambda: monitor.view.state is RunState.PAUSED, "it is asked at once")
        # What its files lack is told with the next answer, so that is asked for, too.
        monitor.remark = "its disk was removed"
        monitor.heard_elsewhere(RunState.PAUSED)
        await eventually(lambda: monitor.view.remark == "its disk was removed", "it is told")


async def test_one_that_is_heard_elsewhere_again_and_again_is_asked_now_and_then(
    tmp_path: Path,
) -> None:
    """Sabotage: let every hearing stand for a question. That this monitor does not answer is then found out by whoever
    wants to end the machine."""
    timing = Timing(question=0.5, breath=0.01, elsewhere=0.0, hearsay=3)
    async with watched(tmp_path / "a", timing) as (asked, monitor):
        before = asked.questions

        def goes_on() -> bool:
            monitor.heard_elsewhere(RunState.RUNNING)
            return asked.questions > before

        await eventually(goes_on, "it is asked though it is heard all the time")
