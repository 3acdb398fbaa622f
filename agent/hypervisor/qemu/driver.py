"""QEMU as a hypervisor: what the seam promises, put together from files, processes and monitors.

It refuses to remember: what it knows of a machine it has from the machine's process and its directory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from contextvars import Context

from agent.errors import MonitorError, RetryLater, StartFailed, StopFailed
from agent.guest import overlay
from agent.hypervisor.api import Exit, Found, Kept, Machine, OnChange, RunState, View
from agent.hypervisor.qemu import argv, disk, files, forwards, process, start
from agent.hypervisor.qemu.monitor import Timing
from agent.hypervisor.qemu.process import Handle
from agent.hypervisor.qemu.rounds import Rounds
from agent.hypervisor.qemu.running import Running, kill
from agent.logger import structlog
from agent.paths import StatePaths
from state.ids import Process, Uid
from state.spec.resolved import Forward

START = 30.0
"""Seconds that a new QEMU has until its first answer; 0.05 are usual."""
FIND = 2.0
"""Seconds for the holder of a machine's lock to become recognisable: it is another agent's child before it is QEMU."""

_log = structlog.get_logger()


class QemuHypervisor:
    """The QEMUs of one state directory."""

    def __init__(
        self,
        paths: StatePaths,
        state_id: str,
        qemu: str = argv.DEFAULT_QEMU,
        timing: Timing | None = None,
    ) -> None:
        """`state_id` is the UUID that the state directory was born with; `qemu` a path, or a name on PATH."""
        self._paths = paths
        self._state_id = state_id
        self._qemu = qemu
        self._timing = timing or Timing()
        self._rounds = Rounds(self._timing.heartbeat)
        self._boot_id = process.boot_id()
        self._on_change: OnChange = lambda _uid, _word: None
        self._running: dict[Uid, Running] = {}
        self._exits: dict[Uid, Exit] = {}
        self._tasks: dict[Uid, asyncio.Task[None]] = {}

    @property
    def boot_id(self) -> str:
        return self._boot_id

    async def open(self, on_change: OnChange) -> None:
        self._on_change = on_change

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def scan(self) -> Sequence[Found]:
        # What is held needs no proof: with many machines, that is most of what there is to look at.
        held = [(uid, one.process) for uid, one in self._running.items() if not one.held.over()]
        others = self._processes(self._state_id.encode(), {who.pid for _, who in held})
        return [self._found(uid, who) for uid, who in (*held, *others)]

    def _processes(self, hint: bytes, but: Collection[int] = ()) -> list[tuple[Uid, Process]]:
        def ours(words: list[str]) -> bool:
            return argv.marked_uid(words, self._state_id) is not None

        found = []
        for pid in process.with_command_line(ours, hint, but):
            # What became of it meanwhile may be somebody else's, and not be shown to us.
            with suppress(PermissionError):
                who = process.identify(pid, self._boot_id)
                uid = argv.marked_uid(process.command_line(pid), self._state_id)
                if who is not None and uid is not None and process.owner(pid) in self._owners(uid):
                    found.append((uid, who))
        return found

    def _owners(self, uid: Uid) -> tuple[int | None, ...]:
        """The users whose processes can be this machine: anybody may start a program with these words."""
        described = files.described(self._paths.instance(uid))
        return (0, os.geteuid(), described.run_as if described else None)

    def _found(self, uid: Uid, who: Process) -> Found:
        described = files.described(self._paths.instance(uid))
        if described is None:
            return Found(uid, who)
        kept = described.kept
        return Found(uid, who, kept.name, kept.generation, kept.record)

    def kept(self, but: Collection[Uid] = ()) -> Sequence[Kept]:
        return files.all_kept(self._paths, but)

    def leftovers(self, but: Collection[Uid] = ()) -> Sequence[Uid]:
        return files.leftovers(self._paths, but)

    def process_of(self, uid: Uid) -> Process | None:
        running = self._running.get(uid)
        if running is not None and not running.held.over():
            return running.process
        # Its QEMU has the lock from its first moment to its last. Without the file nothing can be told from it.
        with suppress(FileNotFoundError):
            if not files.Lock.held(self._paths.instance(files.checked(uid))):
                return None
        return self._recognised(uid)

    def _recognised(self, uid: Uid) -> Process | None:
        """The process that has become the machine's QEMU: what is on its way there has other words yet."""
        return next((who for one, who in self._processes(uid.encode()) if one == uid), None)

    def alive(self, uid: Uid, process: Process) -> bool:
        running = self._running.get(uid)
        if running is not None and running.process == process:
            return not running.held.over()
        held = Handle.hold(process)
        if held is None:
            return False
        held.close()
        return True

    async def prepare(self, machine: Machine) -> None:
        try:
            await asyncio.to_thread(files.prepare, self._paths, machine)
        except OSError as error:
            raise StartFailed(
                f"the files of {machine.name} could not be made: {start.told(error)}"
            ) from error

    async def describe(self, uid: Uid, record: str) -> None:
        try:
            await asyncio.to_thread(files.describe, self._paths, uid, record)
        except OSError as error:
            raise RetryLater(
                f"what {uid} is could not be written beside its disk: {start.told(error)}"
            ) from error

    async def spawn(self, machine: Machine) -> Process:
        mine = self._paths.instance(files.checked(machine.uid))
        deadline = asyncio.get_running_loop().time() + FIND
        try:
            while (lock := files.Lock.take(mine)) is None:
                if (there := self._recognised(machine.uid)) is not None:
                    return await self._found_running(machine, there)
                if asyncio.get_running_loop().time() > deadline:
                    raise StartFailed(
                        f"{machine.name} cannot be started: another process holds its lock",
                        hint=f"lsof {mine.pid_file} tells which",
                    )
                await asyncio.sleep(0.02)
        except OSError as error:
            raise StartFailed(f"{machine.name} is not prepared: {start.told(error)}") from error
        try:
            held = start.started(
                self._paths, machine, lock, words=lambda fds: self._words(machine, fds)
            )
        finally:
            lock.release()
        self._exits.pop(machine.uid, None)
        running = self._supervise(machine.uid, held)
        await self._first_answer(machine, running)
        return running.process

    def _words(self, machine: Machine, fds: argv.Descriptors) -> list[str]:
        return argv.command(machine, fds, self._state_id, self._qemu)

    async def _found_running(self, machine: Machine, there: Process) -> Process:
        """A process that another agent began, proven by its first word: it may still be about to refuse its command
        line. It is not ended here for being silent, since its guest may have run for long."""
        await self.attach(machine.uid, there)
        running = self._running.get(machine.uid)
        if running is None or not await running.answers_within(START):
            exit_ = self._exits.get(machine.uid, Exit("it does not answer"))
            raise StartFailed(f"{machine.name} did not start: {exit_.text}")
        return there

    async def _first_answer(self, machine: Machine, running: Running) -> None:
        """Wait for QEMU's first word. Cut off here, it stays as it is: inert, and found by whoever tries again."""
        task = self._tasks[machine.uid]
        if await running.answers_within(START):
            return
        if not running.held.over():
            await kill(running.held)
            raise StartFailed(
                f"{machine.name} did not start: its QEMU said nothing within {START:g} s and was ended"
            )
        await asyncio.wait((task,))
        exit_ = self._exits.get(machine.uid, Exit("ended"))
        raise StartFailed(
            f"{machine.name} did not start: {exit_.text}", hint=start.port_hint(exit_.text)
        )

    def _supervise(self, uid: Uid, held: Handle) -> Running:
        def changed(word: str) -> None:
            self._on_change(uid, word)

        running = Running(uid, held, self._paths.instance(uid), self._timing, self._rounds, changed)
        self._running[uid] = running
        # Not in a TaskGroup: `open` and `close` bound its life, and may be called by different tasks.
        # Nor does it belong to the pass that began it, for all that it will have to log.
        task = asyncio.get_running_loop().create_task(
            self._watch(running), name=f"supervise {uid}", context=Context()
        )
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._reported(uid, done))
        return running

    async def _watch(self, running: Running) -> None:
        try:
            self._exits[running.uid] = await running.supervise()
        finally:
            running.held.close()
            if self._running.get(running.uid) is running:
                del self._running[running.uid], self._tasks[running.uid]
        self._on_change(running.uid, "exit")

    def _reported(self, uid: Uid, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("supervision broke off", uid=uid, exc_info=error)
            self._on_change(uid, "supervision broke off")

    async def attach(self, uid: Uid, process: Process) -> None:
        current = self._running.get(uid)
        if current is not None and current.process == process and not current.held.over():
            return
        held = Handle.hold(process)
        if held is None:
            self._exits[uid] = Exit("ended before this agent looked")
            self._on_change(uid, "exit")
            return
        if current is not None:
            await self._let_go(uid)
        self._exits.pop(uid, None)
        self._supervise(uid, held)

    async def _let_go(self, uid: Uid) -> None:
        task = self._tasks.get(uid)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def attached(self, uid: Uid) -> bool:
        return uid in self._running

    def view(self, uid: Uid) -> View:
        running = self._running.get(uid)
        return View(None) if running is None else running.view

    def heard_elsewhere(self, uid: Uid, state: RunState) -> None:
        """A machine has told its state to a meter."""
        if (running := self._running.get(uid)) is not None:
            running.monitor.heard_elsewhere(state)

    def exit_of(self, uid: Uid) -> Exit | None:
        return self._exits.get(uid)

    def _supervised(self, uid: Uid) -> Running:
        running = self._running.get(uid)
        if running is None:
            raise MonitorError(f"the machine {uid} is not supervised")
        return running

    async def resume(self, uid: Uid) -> None:
        monitor = self._supervised(uid).monitor
        await monitor.execute("cont")
        await monitor.refresh()

    async def pause(self, uid: Uid) -> None:
        monitor = self._supervised(uid).monitor
        await monitor.execute("stop")
        await monitor.refresh()

    async def set_forwards(self, uid: Uid, wanted: Sequence[Forward]) -> None:
        try:
            await forwards.change(self._supervised(uid).monitor, wanted)
        except ValueError as error:
            raise MonitorError(f"the forwards of {uid} stay as they are: {error}") from error

    async def accepted(self, uid: Uid, forward: Forward) -> frozenset[int]:
        """A number for each connection through the forward that the guest has accepted. Raises MonitorError."""
        return await forwards.accepted(self._supervised(uid).monitor, forward)

    async def grow(self, uid: Uid, size: int) -> None:
        running = self._running.get(uid)
        if running is not None:
            await disk.grow(running, size)
            return
        mine = self._paths.instance(files.checked(uid))
        try:
            lock = files.Lock.take(mine)
            if lock is None:
                raise MonitorError(f"the disk of {uid} cannot grow: its process is not supervised")
            try:
                await asyncio.to_thread(overlay.grow, mine.disk, size)
            finally:
                lock.release()
        except OSError as error:
            raise MonitorError(f"the disk of {uid} cannot grow: {start.told(error)}") from error

    async def stop(self, uid: Uid, process: Process, grace: float) -> None:
        if not self.alive(uid, process):
            return
        await self.attach(uid, process)
        running, task = self._running.get(uid), self._tasks.get(uid)
        if running is None or task is None:
            return
        await running.end(grace)
        await asyncio.wait((task,))

    async def discard(self, uid: Uid) -> None:
        try:
            await asyncio.to_thread(files.discard, self._paths, uid)
        except OSError as error:
            raise StopFailed(
                f"the files of {uid} could not be removed: {start.told(error)}"
            ) from error
        self._exits.pop(uid, None)
