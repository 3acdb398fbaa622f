"""Listens to one machine's QEMU for as long as it lives: the only doorway to QMP (docs/interop/qmp-spec.rst of QEMU).

    connecting --greeting, right uuid--> listening --silence--> listening, not responsive
        ^                                    |
        `------- back-off <------------------'  lost

Events only make it ask again. Every command has a deadline, since QEMU answers none while it is stopped, and no command
is ever sent a second time. It refuses to command a machine whose `query-uuid` is not the one that it was told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

from agent.errors import MonitorError
from agent.hypervisor.api import RunState, View
from agent.hypervisor.resets import Resets
from state.ids import Uid
from state.spec.words import excerpt

logging.getLogger("qemu.qmp").setLevel(
    logging.CRITICAL
)  # what it has to say reaches us as exceptions

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


_LOST = (QMPError, OSError, EOFError, TimeoutError, AssertionError, ValueError, RecursionError)
"""What qemu.qmp 0.0.6 raises when a line is lost, or holds what no QEMU says: it asserts that a line lives on once it
has greeted, and lets through what Python says of bytes that are no text and of brackets without an end."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A stopped QEMU is known as unresponsive after at most `heartbeat` + `silence`; one that hangs in another
    way, after `question` + `silence`, and `elsewhere` where it is measured."""

    heartbeat: float = 2.0
    """Between two looks at the process and its logs: they cost next to nothing."""
    question: float = 10.0
    """Between two questions that nothing has caused, and two looks at the files that it stands on."""
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


class _Client(QMPClient):
    """Without the log of every message: the library writes each out, indented, whether anybody reads it or not, which
    is much of what listening to many machines costs. Its documentation has these two for subclasses to replace."""

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


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
        self._client: QMPClient | None = None
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
                async with self._connected() as client:
                    pause = self._timing.first_pause
                    await self._listen(client)
            except MonitorError as error:
                self._publish(False, error.message, "lost")
            self._closed.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._timing.heartbeat)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[QMPClient]:
        """A client that has spoken with the right machine. Raises MonitorError for every way in which this fails."""
        client = _Client()
        # The listener would keep every event for ever; a filter that accepts none hears them all.
        client.events.event_filter = self._heard
        try:
            with _translated("connect"):
                async with asyncio.timeout(self._timing.connect):
                    await client.connect(str(self._socket))
            reply = await self._ask(client, "query-uuid", deadline=self._timing.connect)
            if reply.get("UUID") != self._uid:
                raise MonitorError(
                    f"another machine answers at its monitor: {excerpt(reply.get('UUID'))}"
                )
            self._client = client
            yield client
        finally:
            self._client = None
            # Also takes the exceptions of the library's own tasks, so it must not be cut off: asyncio would print
            # them. A socket that cannot be flushed is let go.
            closing = asyncio.ensure_future(client.disconnect())
            closing.add_done_callback(lambda done: done.cancelled() or done.exception())
            with suppress(*_LOST):
                async with asyncio.timeout(1):
                    await asyncio.shield(closing)

    async def _listen(self, client: QMPClient) -> None:
        """Ask for the status at every event, and now and then. Raises MonitorError when the connection is lost."""
        lost = asyncio.ensure_future(client.runstate_changed())
        lost.add_done_callback(lambda _: self._wake.set())
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                await self._look(client)
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

    async def _look(self, client: QMPClient) -> None:
        """One question, and its answer whenever it comes: a machine that is silent is asked once, not ever again."""
        overdue = _Overdue(self._timing.silence, self._fell_silent)
        try:
            reply = await self._ask(client, "query-status", deadline=None)
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

    def _heard(self, event: Message) -> bool:
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
        client = await self._usable("query-status")
        self._answered(
            str((await self._ask(client, "query-status", self._timing.command)).get("status"))
        )
        return self.view

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """What the command returns. Raises MonitorError: not connected, silent, refused, lost or too late; in the last
        two cases it may have been carried out. Nothing is sent to a machine that is silent."""
        client = await self._usable(command)
        return await self._execute(client, command, arguments, self._timing.command)

    async def _usable(self, command: str) -> QMPClient:
        """The connection. A first one is waited for, and so is one that is silent just now: a busy host is no fault."""
        if self.view.state is None and self.view.responsive:
            await self.until(lambda view: view != View(None), self._timing.connect)
        if not self.view.responsive:
            await self.until(lambda view: view.responsive, self._timing.silence)
        if self._client is None or not self.view.responsive:
            raise MonitorError(
                f"{command} was not sent: {self.view.detail or 'its monitor is not connected yet'}"
            )
        return self._client

    async def _ask(self, client: QMPClient, command: str, deadline: float | None) -> dict[str, Any]:
        reply = await self._execute(client, command, None, deadline)
        if not isinstance(reply, dict):
            raise MonitorError(f"{command} was answered with no object")
        return cast(dict[str, Any], reply)

    async def _execute(
        self,
        client: QMPClient,
        command: str,
        arguments: Mapping[str, object] | None,
        deadline: float | None,
    ) -> object:
        with _translated(command):
            async with asyncio.timeout(deadline):
                return await client.execute(command, arguments)

    async def until(self, met: Callable[[View], bool], seconds: float) -> bool:
        """Whether the view met the condition before `seconds` were over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not met(self.view):
                    await self._news.wait()
        return met(self.view)

    async def heard_out(self, seconds: float) -> None:
        """Return when the connection has closed, so that nothing is left to hear of a process that ended."""
        if self._client is not None:
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


@contextmanager
def _translated(command: str) -> Iterator[None]:
    """Turns what the library raises into MonitorError."""
    try:
        yield
    except ExecuteError as error:
        raise MonitorError(f"QEMU refused {command}: {excerpt(error)}") from error
    except TimeoutError as error:
        raise MonitorError(f"{command} was not answered in time") from error
    except ConnectError as error:
        raise MonitorError(f"its monitor cannot be reached: {excerpt(error.exc)}") from error
    except _LOST as error:
        raise MonitorError(f"its monitor was lost during {command}") from error
