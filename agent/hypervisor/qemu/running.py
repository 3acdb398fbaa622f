"""One machine while this agent supervises it: its process, its monitor, and the ladder that ends it.

It refuses to decide: it is told when to end a machine, and tells how one ended.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from agent.errors import MonitorError, StopFailed
from agent.hypervisor.api import Exit, RunState, View
from agent.hypervisor.qemu import base, files, logs, process
from agent.hypervisor.qemu.monitor import Monitor, Timing
from agent.hypervisor.qemu.process import Handle
from agent.hypervisor.qemu.rounds import Rounds
from agent.logger import structlog
from agent.paths import InstancePaths
from state.ids import Process, Uid

CONSOLE_LIMIT = 16 << 20
QEMU_LOG_LIMIT = 1 << 20
"""Bytes after which a log is cut to its last half; a guest decides how much it says."""

PRESS_AGAIN, PRESS_SELDOM = 1.0, 8.0
"""Seconds after which ACPI power-down is asked for again, first and at most: one that comes before the guest listens
for it is lost (hw/acpi/core.c), and one that comes twice does no harm."""
_MAY_REACT = (None, RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR)

QUIT, TERMINATE, KILL = 10.0, 5.0, 5.0
"""Seconds that each step is given. QEMU flushes its disks at `quit` and at SIGTERM."""

_PARTING = {
    "host-qmp-quit": "ended by its monitor's quit",
    "host-signal": "ended by a signal that somebody on this host sent",
    "guest-shutdown": "powered off by its guest",
    "guest-reset": "reset by its guest",
    "guest-panic": "ended by its guest's panic",
}

_log = structlog.get_logger()


class Running:
    """A live process and what is heard of it."""

    def __init__(  # noqa: PLR0913 - what all machines share, too
        self,
        uid: Uid,
        held: Handle,
        mine: InstancePaths,
        timing: Timing,
        rounds: Rounds,
        changed: Callable[[str], None],
    ) -> None:
        """`changed` is told a word whenever the view is another one."""
        self.uid = uid
        self.held = held
        self.monitor = Monitor(mine.qmp_socket, uid, timing, changed)
        self._mine = mine
        self._timing = timing
        self._rounds = rounds
        self._logs = ((mine.console_log, CONSOLE_LIMIT), (mine.qemu_log, QEMU_LOG_LIMIT))
        self._disk = mine.disk
        self._files_due = 0.0
        self._told = ""
        self._image: Path | None = None  # no process comes to stand on another one
        self._base: int | None = None

    async def answers_within(self, seconds: float) -> bool:
        """Whether QEMU said its state before `seconds` were over, and lives."""
        await self.until(_known, seconds)
        return self.view.state is not None and not self.held.over()

    @property
    def process(self) -> Process:
        return self.held.process

    @property
    def view(self) -> View:
        return self.monitor.view

    async def supervise(self) -> Exit:
        """Listen until the process ends, and tell how it did. What goes wrong with that is told in the view, and it is
        tried again."""
        while True:
            try:
                return await self._supervise()
            except Exception as bug:  # noqa: BLE001 - a machine is not let go of for what goes wrong here
                self._broke_off(bug)
            await asyncio.sleep(self._timing.heartbeat)

    def _broke_off(self, bug: Exception) -> None:
        while isinstance(bug, ExceptionGroup):
            bug = bug.exceptions[0]
        if repr(bug) != self._told:
            self._told = repr(bug)
            _log.error("supervision broke off", uid=self.uid, exc_info=bug)
        self.monitor.failed(bug)

    async def _supervise(self) -> Exit:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self.monitor.run())
            with self._rounds.joined(self._look_after):
                await self.held.ended()
            # Its last event, which says why, may still lie in the socket.
            await self.monitor.heard_out(1.0)
            listening.cancel()
        return self._ending()

    def _look_after(self) -> None:
        try:
            if self.held.stands_still():
                self.monitor.look()
            now = asyncio.get_running_loop().time()
            if now >= self._files_due:
                self._bound_logs()
                self.monitor.remark = self._amiss()
                # The first time at once; then not all machines in one round, though they came together.
                share = crc32(self.uid.encode()) % 100 / 100 if self._files_due == 0 else 1.0
                self._files_due = now + share * self._timing.question
        except Exception as bug:  # noqa: BLE001 - the next round may fare better
            self._broke_off(bug)

    def _bound_logs(self) -> None:
        """A guest writes a megabyte a second to its serial line, at most: they do not grow far beyond their limits."""
        for log, limit in self._logs:
            with suppress(OSError):
                logs.bound(log, limit)

    def _amiss(self) -> str:
        """What is wrong with the files that it stands on, or nothing."""
        try:
            return self._lost_disk() or self._changed_base()
        except OSError as error:
            return f"its files cannot be looked after: {error}"

    def _lost_disk(self) -> str:
        if self._disk.exists():
            return ""
        # QEMU writes on into a file without a name, and everything is lost at its end.
        lost = "what its guest has written goes with it when it ends: save that from inside"
        return f"its disk {self._disk} was removed; {lost}"

    def _changed_base(self) -> str:
        if self._image is None and (described := files.described(self._mine)) is not None:
            self._image = described.base
        if self._image is None:
            return ""
        pid = self.process.pid
        self._base = base.held_as(pid, self._image, self._base)
        return "" if self._base is None else base.remark(pid, self._base, self._image)

    def _ending(self) -> Exit:
        status = self.held.reap()
        said = _PARTING.get(self.monitor.parting, "")
        if status is None:
            return Exit(said or "ended; how was not seen", None)
        if status == 0 and said:
            return Exit(said, 0)
        words = logs.last_words(self._mine.qemu_log)
        return Exit(process.ending(status) + (f": {words}" if words else ""), status)

    async def end(self, grace: float) -> None:
        """Every step of the ladder, until the process is gone. Raises StopFailed."""
        if grace > 0 and await self._powered_down(grace):
            return
        if self.view.responsive:
            with suppress(MonitorError):
                # The answer may be lost to the end that it brings; that is awaited below.
                await self.monitor.execute("quit")
            if await self.held.ended_within(QUIT):
                return
        self.held.signal(signal.SIGTERM)
        if not await self.held.ended_within(TERMINATE):
            await kill(self.held)

    async def _powered_down(self, grace: float) -> bool:
        """Let the guest end itself. True when the process is gone; False when the guest is off, cannot react, or did
        not within `grace` seconds."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + grace, PRESS_AGAIN
        while not (self.held.over() or self.held.closed) and (left := deadline - loop.time()) > 0:
            if self.view.state not in _MAY_REACT:
                break
            with suppress(
                MonitorError
            ):  # silent just now: it may be heard again before its grace is over
                await self._press()
            if not _may_go_on(self.view):
                break
            await self.until(lambda view: not _may_go_on(view), min(left, pause))
            pause = min(2 * pause, PRESS_SELDOM)
        return self.held.over()

    async def _press(self) -> None:
        await self.monitor.execute("system_powerdown")
        if self.view.state is not RunState.RUNNING:
            # Only a guest that runs can put its files in order; one whose disk is full stops at once again.
            await self.monitor.execute("cont")
            await self.monitor.refresh()

    async def until(self, met: Callable[[View], bool], seconds: float) -> None:
        """Return when the view meets the condition, the process has ended, or `seconds` are over."""
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(self.monitor.until(met, seconds))
            ended = group.create_task(self.held.ended_within(seconds))
            await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            ended.cancel()


def _known(view: View) -> bool:
    return view.state is not None


def _may_go_on(view: View) -> bool:
    return view.state is None or view.state is RunState.RUNNING


async def kill(held: Handle) -> None:
    """SIGKILL, and wait for the end. Raises StopFailed for a process that the kernel does not let go."""
    held.signal(signal.SIGKILL)
    if not await held.ended_within(KILL):
        raise StopFailed(
            f"process {held.process.pid} did not end within {KILL:g} s of SIGKILL",
            hint="the kernel holds it, perhaps for a disk that does not answer",
        )
