"""Listens to one machine's QEMU for as long as it lives.

    connecting --greeting, right uuid--> listening --silence--> listening, not responsive
        ^                                    |
        `------- back-off <------------------'  lost

Events only make it ask again. Every command has a deadline, since QEMU answers none while it is stopped, and no command
is ever sent a second time. It refuses to command a machine whose `query-uuid` is not the one that it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import MonitorError
from agent.hypervisor.api import RunState, View
from agent.hypervisor.qemu.client import Connection, connected
from agent.hypervisor.resets import Resets
from state.ids import Uid
from state.spec.words import excerpt

STATES = {
    "prelaunch": RunState.INERT,
    "running": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "shutdown": RunState.OFF,
    "guest-panicked": RunState.PANICKED,
    "io-error": RunState.IO_ERROR,
}
"""QEMU's RunState (qapi/run-state.json); what is not here is OTHER."""

_SAID = {
    RunState.OFF: "the guest powered itself off",
    RunState.PANICKED: "the guest's kernel panicked",
    RunState.IO_ERROR: "the host could not read or write its disk",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A stopped QEMU is known as unresponsive after at most `heartbeat` + `silence`; one that hangs in another
    way, after `question` + `silence`, and `elsewhere` where it is measured. One that is silent on this monitor alone
    and tells its state on the other is known after `hearsay` sweeps more: about a minute, as they are 10 s apart."""

    heartbeat: float = 2.0
    """Between two looks at the process: they cost next to nothing."""
    question: float = 10.0
    """Between two questions that nothing has caused, and two looks at its logs and the files that it stands on."""
    elsewhere: float = 1.0
    """By so much a sweep over the machines may come late and still stand for a question."""
    silence: float = 2.0
    command: float = 10.0
    connect: float = 3.0
    first_pause: float = 0.05
    """Before a lost connection is tried again; doubled up to `heartbeat`."""
    hearsay: int = 5
    """So many sweeps in a row stand for questions; then it is asked itself, as this monitor is the one that ends it."""
    breath: float = 0.1
    """Between two questions that events cause, however many events there are."""


class Monitor:
    """The control monitor of one machine. `run` must run for anything here to happen."""

    def __init__(
        self, socket: Path, uid: Uid, timing: Timing, changed: Callable[[str], None]
    ) -> None:
        """`changed` is called with a word for the log whenever `view` is another one."""
        self.view = View(None)
        self.parting = ""
        """Why QEMU is about to end, in its own word: `host-signal`, `host-qmp-quit`, ... Empty: not heard."""
        self.remark = ""
        """What is to be said of the machine beside its state; a sentence part, or empty."""
        self._socket, self._uid, self._timing, self._changed = socket, uid, timing, changed
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._closed = asyncio.Event()
        self._resets = Resets()
        self._trouble = ""
        self._heard_at = 0.0
        self._hearsay = 0

    def failed(self, error: Exception) -> None:
        """Tell that listening broke off, for a reason that is none of QEMU's."""
        detail = f"looking after it met a bug of holdfast: {error!r}"
        self._publish(False, detail, "supervision broke off")

    async def run(self) -> None:
        """Connect, listen, connect again, until cancelled."""
        pause = self._timing.first_pause
        while True:
            try:
                async with self._connected() as connection:
                    pause = self._timing.first_pause
                    await self._listen(connection)
            except MonitorError as error:
                self._publish(False, error.message, "lost")
            self._closed.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._timing.heartbeat)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection to the right machine. Raises MonitorError for every way in which this fails."""
        patience = self._timing.connect
        try:
            async with connected(self._socket, self._heard, patience) as connection:
                reply = await connection.ask("query-uuid", patience)
                if reply.get("UUID") != self._uid:
                    raise MonitorError(
                        f"another machine answers at its monitor: {excerpt(reply.get('UUID'))}"
                    )
                self._connection = connection
                yield connection
        finally:
            self._connection = None

    async def _listen(self, connection: Connection) -> None:
        """Ask for the status at every event, and now and then. Raises MonitorError when the connection is lost."""
        lost = asyncio.ensure_future(connection.changed())
        lost.add_done_callback(lambda _: self._wake.set())
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                await self._look(connection)
                rested = loop.time() + self._timing.breath
                await self._cause()
                if (left := rested - loop.time()) > 0:
                    await asyncio.wait((lost,), timeout=left)
        finally:
            lost.cancel()

    async def _cause(self) -> None:
        """Return when it is to be asked: something has happened, or nothing was heard of it for long."""
        silent = _Silent(lambda: self._heard_at + self._timing.question, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            silent.cancel()

    async def _look(self, connection: Connection) -> None:
        """One question, and its answer whenever it comes: a machine that is silent is asked once, not ever again."""
        overdue = _Overdue(self._timing.silence, self._fell_silent)
        try:
            reply = await connection.ask("query-status", deadline=None)
        finally:
            overdue.cancel()
        self._answered(str(reply.get("status")))

    def heard_elsewhere(self, state: RunState) -> None:
        """It has just told its state on its other monitor. While that is as it was, it needs not be asked on this one:
        with many machines, such questions are most of what an agent does that has nothing to do."""
        if state is not self.view.state or self.remark != self.view.remark:
            self._wake.set()
        elif self.view.responsive and self._hearsay < self._timing.hearsay:
            self._hearsay += 1
            self._heard_at = asyncio.get_running_loop().time() + self._timing.elsewhere

    def _answered(self, status: str) -> None:
        now = asyncio.get_running_loop().time()
        # Asked again a little early, and with all that were heard in this while: one wakeup for many costs less.
        self._heard_at = now - now % (self._timing.question / 10)
        self._hearsay = 0
        state = STATES.get(status, RunState.OTHER)
        detail = (
            _SAID.get(state, "") if state is not RunState.OTHER else f"QEMU says: {excerpt(status)}"
        )
        if self._trouble and state is RunState.IO_ERROR:
            detail += f": {self._trouble}"
        self._publish(True, detail, state.value, state)

    def _fell_silent(self) -> None:
        detail = f"its monitor did not answer within {self._timing.silence:g} s"
        self._publish(False, detail, "unresponsive")

    def _publish(
        self, responsive: bool, detail: str, word: str, state: RunState | None = None
    ) -> None:
        resets = self._resets
        view = View(
            state or self.view.state, responsive, detail, resets.total, resets.in_a_row, self.remark
        )
        if view != self.view:
            self.view = view
            self._news.set()
            self._news = asyncio.Event()
            self._changed(word)

    def _heard(self, event: Mapping[str, Any]) -> bool:
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        match event.get("event"):
            case "SHUTDOWN":
                self.parting = excerpt(data.get("reason", ""))
            case "RESET" if data.get("guest"):
                self._resets.count(asyncio.get_running_loop().time())
            case "BLOCK_IO_ERROR":
                self._trouble = excerpt(data.get("reason", ""))
            case "RTC_CHANGE" | "BALLOON_CHANGE" | "NIC_RX_FILTER_CHANGED":
                return False
            case _:
                pass
        self._wake.set()
        return False

    def look(self) -> None:
        """Have it asked now, whoever is to hear of it."""
        self._wake.set()

    async def refresh(self) -> View:
        """Ask now. Raises MonitorError."""
        connection = await self._usable("query-status")
        reply = await connection.ask("query-status", self._timing.command)
        self._answered(str(reply.get("status")))
        return self.view

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """What the command returns. Raises MonitorError: not connected, silent, refused, lost or too late; in the last
        two cases it may have been carried out. Nothing is sent to a machine that is silent."""
        connection = await self._usable(command)
        return await connection.execute(command, arguments, self._timing.command)

    async def _usable(self, command: str) -> Connection:
        """The connection. A first one is waited for, and so is one that is silent just now: a busy host is no fault."""
        if self.view.state is None and self.view.responsive:
            await self.until(lambda view: view != View(None), self._timing.connect)
        if not self.view.responsive:
            await self.until(lambda view: view.responsive, self._timing.silence)
        if self._connection is None or not self.view.responsive:
            raise MonitorError(
                f"{command} was not sent: {self.view.detail or 'its monitor is not connected yet'}"
            )
        return self._connection

    async def until(self, met: Callable[[View], bool], seconds: float) -> bool:
        """Whether the view met the condition before `seconds` were over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not met(self.view):
                    await self._news.wait()
        return met(self.view)

    async def heard_out(self, seconds: float) -> None:
        """Return when the connection has closed, so that nothing is left to hear of a process that ended."""
        if self._connection is not None:
            self._closed.clear()
            self._wake.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()


class _Overdue:
    """Calls once when an answer is late. A timer that itself fires late proves that we were away, not that the other
    was silent, and starts again."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds, self._call = seconds, call
        self._loop = asyncio.get_running_loop()
        self._start()

    def _start(self) -> None:
        self._due = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._due, self._fired)

    def _fired(self) -> None:
        if self._loop.time() > self._due + self._seconds / 2:
            self._start()
        else:
            self._call()

    def cancel(self) -> None:
        self._timer.cancel()


class _Silent:
    """Calls once when nothing was heard for long. `due` says when that is, and may say another time by then: a timer
    that goes off once costs less than one that is put off whenever something is heard."""

    def __init__(self, due: Callable[[], float], call: Callable[[], None]) -> None:
        self._due, self._call = due, call
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(due(), self._fired)

    def _fired(self) -> None:
        if (due := self._due()) > self._loop.time():
            self._timer = self._loop.call_at(due, self._fired)
        else:
            self._call()

    def cancel(self) -> None:
        self._timer.cancel()
