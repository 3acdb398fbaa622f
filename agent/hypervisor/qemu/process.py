"""Starts, finds, recognises and signals processes of this host.

It refuses to take a pid for a process: only a pid with its start time and its boot is one, and a signal goes through a
pidfd that was opened first and compared afterwards (pidfd_open(2)).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.errors import StartFailed, StopFailed
from state.ids import TICKS_PER_SECOND, Process

START_TICKS = 19
"""Field 22 of /proc/PID/stat, counted after the name of the program, which may hold blanks and parentheses."""
_USER_TICKS, _SYSTEM_TICKS, _RESIDENT_PAGES = 11, 12, 21
"""Fields 14, 15 and 24, counted likewise."""
_PAGE = os.sysconf("SC_PAGESIZE")
_HEAD = 512
"""Bytes of `/proc/PID/stat` that are sure to hold the state."""


@cache
def boot_id() -> str:
    """Of this boot of this host; no process sees another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


_WHOLE = 1 << 16
"""Bytes that are read at once of a file of a process: nearly always all of it."""


def identify(pid: int, boot: str) -> Process | None:
    """The process that has `pid` now, zombies too; None where there is none."""
    stat = _read(pid, "stat")
    return Process(boot, pid, int(stat.rpartition(b")")[2].split()[START_TICKS])) if stat else None


def command_line(pid: int) -> list[str]:
    """The words that `pid` was started with; empty for a zombie, a kernel thread, and where there is none."""
    return _words(_read(pid, "cmdline"))


def _words(line: bytes) -> list[str]:
    return os.fsdecode(line).split("\0")[:-1]


def _read(pid: int, name: str) -> bytes:
    """A file of a process, empty where there is no such process (any more). Raises PermissionError for one that may not
    be read, which tells nothing of whether it lives."""
    # Of many machines: a file object costs as much again as what it reads.
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        found = piece = os.read(descriptor, _WHOLE)
        while len(piece) == _WHOLE:
            piece = os.read(descriptor, _WHOLE)
            found += piece
    except ProcessLookupError:
        return b""
    else:
        return found
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process has taken of the host since it began: seconds of processor time of all its threads, those that
    ended too, and of some of them; and the bytes that it has in memory now."""

    cpu: float
    threads: tuple[float, ...]
    resident: int


def spent(process: Process, threads: Sequence[int]) -> Spent | None:
    """None where it is gone, or may not be looked at (proc(5), `/proc/PID/stat` and `/proc/PID/task/TID/stat`)."""
    try:
        words = _stat(process.pid, "stat")
        if not words or int(words[START_TICKS]) != process.start_ticks:
            return None
        of_threads = [_stat(process.pid, f"task/{thread}/stat") for thread in threads]
    except PermissionError:
        return None
    resident = int(words[_RESIDENT_PAGES]) * _PAGE
    return Spent(_seconds(words), tuple(_seconds(one) for one in of_threads if one), resident)


def _stat(pid: int, name: str) -> list[bytes]:
    return _read(pid, name).rpartition(b")")[2].split()


def _seconds(words: list[bytes]) -> float:
    return (int(words[_USER_TICKS]) + int(words[_SYSTEM_TICKS])) / TICKS_PER_SECOND


def owner(pid: int) -> int | None:
    """The uid that owns `/proc/PID`: root for a moment while a process changes its user."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None


def with_command_line(
    wanted: Callable[[list[str]], bool], hint: bytes, but: Collection[int] = ()
) -> Iterator[int]:
    """The pids of all processes whose words are `wanted`, without those of `but`; only those whose command line holds
    `hint` are asked about. About 20 µs for each process of the host. What this user may not read is not one of ours
    (proc(5), `hidepid`)."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in but:
            try:
                line = _read(int(entry), "cmdline")
            except PermissionError:
                continue
            if hint in line and wanted(_words(line)):
                yield int(entry)


class Handle:
    """One process, held by a descriptor that can never come to mean another."""

    def __init__(self, process: Process, descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._stat = -1
        self._ended: asyncio.Event | None = None
        self._status: int | None = None
        self._over = False

    @classmethod
    def hold(cls, process: Process) -> Handle | None:
        """The process, or None where it has ended: a zombie, a recycled pid and another boot's pid are no process."""
        if process.pid <= 0 or process.boot_id != boot_id():
            return None
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        handle = cls(process, descriptor)
        same = False
        try:
            same = identify(process.pid, process.boot_id) == process and not handle.over()
        finally:
            if not same:
                handle.close()
        return handle if same else None

    @classmethod
    def hold_child(cls, pid: int) -> Handle:
        """Our own child that nobody reaped yet, ended or not."""
        process = identify(pid, boot_id())
        if process is None:
            raise ChildProcessError(f"{pid} is no child of ours")
        # Nobody else's by now: it keeps its pid until it is reaped, and only `reap` does that.
        return cls(process, os.pidfd_open(pid))

    def over(self) -> bool:
        """Whether every thread of it has ended, reaped or not; after `close`, whether it had by then."""
        if not self._over and not self.closed:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            self._over = bool(poll.poll(0))
        return self._over

    def stands_still(self) -> bool:
        """Whether it is stopped, traced, or waits for a disk or a file system: its state in proc(5)."""
        if self.closed:
            return False
        try:
            # Kept open, since all are looked at every two seconds: to open it costs more than to read it.
            if self._stat < 0:
                opened = os.open(f"/proc/{self.process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
                if self.over():  # then it may be another's
                    os.close(opened)
                    return False
                self._stat = opened
            stat = os.pread(self._stat, _HEAD, 0)
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            return False
        return stat[stat.rfind(b")") + 2 :][:1] in (b"T", b"t", b"D")

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self._descriptor < 0

    async def ended(self) -> None:
        """Return once it has ended, or was let go of; any number may wait."""
        if self.closed:
            return
        if self._ended is None:
            asyncio.get_running_loop().add_reader(self._descriptor, self._fired)
            self._ended = asyncio.Event()
        await self._ended.wait()

    async def ended_within(self, seconds: float) -> bool:
        """Whether it ended before `seconds` were over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended()
        return self.over()

    def _fired(self) -> None:
        assert self._ended is not None  # noqa: S101  # set before the reader was added
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self._ended.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended. Raises StopFailed for one that was let go of alive."""
        if self.closed:
            if not self.over():
                raise StopFailed(
                    f"{number.name} was not sent to process {self.process.pid}: it was let go of"
                )
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def reap(self) -> int | None:
        """How it ended, as `subprocess` says it (negative: a signal), where it was our child; None otherwise.

        Also takes away the zombie, that of an orphan too where the agent is PID 1 of its container.
        """
        if self._status is None and not self.closed:
            with suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
                if result is not None:
                    killed = result.si_code != os.CLD_EXITED
                    self._status = -result.si_status if killed else result.si_status
        return self._status

    def close(self) -> None:
        """Let go of it. Those who wait for its end wait no more."""
        self.over()
        if self._ended is not None and not self._ended.is_set():
            self._fired()
        if not self.closed:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._stat >= 0:
            os.close(self._stat)
            self._stat = -1


def launch(command: Sequence[str], *, inherit: Sequence[int], output: int) -> int:
    """Start `command` in a session of its own, and return its pid. Nothing ties it to us: it lives on when we end.

    It inherits the descriptors of `inherit` under their numbers; standard output and error go to `output`. Takes a
    few milliseconds, since it returns when the first program has been executed. Raises StartFailed.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=tuple(inherit),
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            umask=0o077,
            start_new_session=True,
        )
    except OSError as error:
        raise StartFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    # Its pidfd tells its end, and `Handle.reap` takes it away: this object must neither wait for it nor complain.
    child.returncode = 0
    return child.pid


def groups_for(device: Path) -> tuple[int, ...]:
    """The group that lets another user than root open `device`; none where everybody may, or no group does. That root's
    own group may is no reason to give it away."""
    try:
        stat = device.stat()
    except OSError:
        return ()
    everybody, group = stat.st_mode & 0o006 == 0o006, stat.st_mode & 0o060 == 0o060
    return (stat.st_gid,) if group and not everybody and stat.st_gid != 0 else ()


def ending(status: int) -> str:
    """`killed by SIGKILL`, or `exited with status 1`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
