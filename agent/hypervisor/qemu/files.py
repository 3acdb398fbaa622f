"""The files and sockets of one machine: made whole, opened for its QEMU, and removed.

    instance.json   comes last: where it lies, disk and seed are there and may hold what a guest wrote
    qemu.pid        its flock(2) is held by the QEMU process itself, through an inherited descriptor, and so tells for
                    certain whether one lives, whatever became of the agent that started it

It refuses to follow a symbolic link, to make a disk anew that was there once, and to touch what a live process holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from agent import durable
from agent.errors import BadInput, Blocked, StopFailed
from agent.guest import keys, overlay
from agent.hypervisor.api import Kept, Machine, SeedContent
from agent.hypervisor.qemu import firmware
from agent.hypervisor.qemu.argv import Descriptors
from agent.hypervisor.qemu.firmware import Firmware
from agent.paths import InstancePaths, StatePaths
from agent.sockets import listening, own_directory
from state.ids import Name, Uid


def prepare(paths: StatePaths, machine: Machine) -> None:
    """Make what is missing of the machine's files. Raises OSError, Blocked for a disk that is gone, BadInput where this
    host has no firmware for it.

    `instance.json` is brought up to date also where the machine runs.
    """
    mine = paths.instance(checked(machine.uid))
    durable.directory(paths.instances)
    durable.directory(mine.directory)
    was_whole = mine.description.exists()
    if was_whole and not mine.disk.exists():
        raise Blocked(
            f"the disk of {machine.name} is missing: {mine.disk}",
            hint=f"put it back, or remove {mine.directory} to begin with an empty one",
        )
    size = max(machine.disk or 0, machine.base.virtual_size)
    overlay.create(mine.disk, machine.base.path, machine.base.format, size)
    uefi = _uefi(machine, mine)
    if uefi is not None and not mine.firmware_variables.exists():
        durable.write(mine.firmware_variables, uefi.variables.read_bytes(), replace=False)
    if machine.seed is not None and not mine.seed.exists():
        _write_seed(paths, machine, machine.seed)
    description = _description(machine)
    if not was_whole or mine.description.read_text() != description:
        durable.write(mine.description, description.encode(), replace=True)


def _uefi(machine: Machine, mine: InstancePaths) -> Firmware | None:
    """What starts the machine, and goes with the variables that it has by now; None for a BIOS. Raises BadInput."""
    if machine.firmware != "uefi":
        return None
    made, otherwise = None, ""
    with suppress(FileNotFoundError):
        made = mine.firmware_variables.stat().st_size
        otherwise = f"; or remove {mine.firmware_variables} to begin with fresh variables"
    try:
        return firmware.find(machine.machine, made=made)
    except BadInput as error:
        raise BadInput(
            f"{machine.name} starts with UEFI: {error.message}", hint=error.hint + otherwise
        ) from error


def _write_seed(paths: StatePaths, machine: Machine, content: SeedContent) -> None:
    from agent.guest.seed import HostKey, Seed, write

    host = keys.host_key(paths, machine.name)
    seed = Seed(
        instance_id=machine.uid,
        hostname=machine.name,
        login=content.login,
        authorized_key=keys.client_key(paths).public,
        host_key=HostKey(host.private, host.public),
        user_data=content.user_data,
    )
    write(seed, paths.instance(machine.uid).seed)


def checked(uid: Uid) -> Uid:
    """`uid`, if it is one: everything below `instances/` is named by it. Raises ValueError."""
    if str(UUID(uid)) != uid:
        raise ValueError(f"{uid!r} is no uid")
    return uid


def _description(machine: Machine) -> str:
    return _text({"version": 1, "machine": asdict(machine)})


def _text(description: dict[str, Any]) -> str:
    return json.dumps(description, default=str, sort_keys=True, indent=1) + "\n"


def describe(paths: StatePaths, uid: Uid, record: str) -> None:
    """Put `record` into the machine's description, durably; the rest of it stays. Nothing happens where there is none
    that this version understands. Raises OSError."""
    mine = paths.instance(checked(uid))
    told = described(mine)
    if told is None or told.kept.record == record:
        return
    whole = json.loads(mine.description.read_bytes())
    whole["machine"]["record"] = record
    durable.write(mine.description, _text(whole).encode(), replace=True)


@dataclass(frozen=True, slots=True)
class Described:
    """What `instance.json` tells: the machine as others see it, as which uid its process runs, and on which image its
    disk stands."""

    kept: Kept
    run_as: int | None
    base: Path


def described(mine: InstancePaths) -> Described | None:
    """What the directory's own file tells; None where there is none, or none that this version understands."""
    try:
        stat = mine.description.lstat()
    except OSError:
        return None
    return _described(mine.description, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4096)
def _described(path: Path, _version: tuple[int, int, int]) -> Described | None:
    try:
        machine: dict[str, Any] = json.loads(path.read_bytes())["machine"]
        if machine["uid"] != path.parent.name:
            return None
        uid, name = Uid(machine["uid"]), Name(str(machine["name"]))
        run_as = machine["run_as"]
        kept = Kept(uid, name, int(machine["generation"]), str(machine["record"]))
        base = Path(str(machine["base"]["path"]))
        return Described(kept, None if run_as is None else int(run_as), base)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_kept(paths: StatePaths, but: Collection[Uid] = ()) -> list[Kept]:
    """Every machine whose files are whole, without those of `but`."""
    try:
        names = sorted(set(os.listdir(paths.instances)).difference(but))
    except FileNotFoundError:
        return []
    told = [described(paths.instance(Uid(name))) for name in names]
    return [one.kept for one in told if one is not None]


def leftovers(paths: StatePaths, but: Collection[Uid] = ()) -> list[Uid]:
    """Machines, without those of `but`, that have a directory of files or of sockets, no description, and no living
    process."""
    found = []
    for name in sorted((_listed(paths.instances) | _listed(paths.sockets)).difference(but)):
        with suppress(ValueError, OSError):
            mine = paths.instance(checked(Uid(name)))
            if not mine.description.exists() and not _locked(mine):
                found.append(Uid(name))
    return found


def _listed(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def _locked(mine: InstancePaths) -> bool:
    try:
        return Lock.held(mine)
    except FileNotFoundError:
        return False


class Lock:
    """The lock that says a machine's QEMU may live: held by us until a process inherits it, then by that process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, mine: InstancePaths) -> Lock | None:
        """The lock, or None while somebody holds it. Raises FileNotFoundError where the machine has no directory."""
        return cls._taken(mine, os.O_CREAT)

    @classmethod
    def held(cls, mine: InstancePaths) -> bool:
        """Whether somebody holds it. Raises FileNotFoundError where it was never taken, or was taken away."""
        lock = cls._taken(mine, 0)
        if lock is not None:
            lock.release()
        return lock is None

    @classmethod
    def _taken(cls, mine: InstancePaths, flags: int) -> Lock | None:
        # Read-only is enough for flock(2), and all that QEMU gets.
        flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = cls(os.open(mine.pid_file, flags, 0o600))
        try:
            fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.release()
            if isinstance(error, BlockingIOError):
                return None
            raise
        return lock

    def release(self) -> None:
        """Close our descriptor. The lock itself ends with the last process that has it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True, slots=True)
class Opened:
    """What a new QEMU inherits: `numbers` by meaning, `inherit` all of them, `log` for its standard output."""

    numbers: Descriptors
    inherit: tuple[int, ...]
    log: int


@contextmanager
def opened(paths: StatePaths, machine: Machine, lock: Lock) -> Iterator[Opened]:
    """Everything that the machine's QEMU reads, writes and listens on, until the block is left. Raises OSError, and
    BadInput where its firmware is gone."""
    mine = paths.instance(machine.uid)
    with ExitStack() as stack:

        def file(path: Path, flags: int, *, follow: bool = False) -> int:
            links = 0 if follow else os.O_NOFOLLOW
            descriptor = os.open(path, flags | links | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            return descriptor

        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        uefi = _uefi(machine, mine)
        own_directory(paths.sockets)
        own_directory(mine.sockets)
        numbers = Descriptors(
            disk=file(mine.disk, os.O_RDWR),
            base=file(machine.base.path, os.O_RDONLY),
            seed=file(mine.seed, os.O_RDONLY) if machine.seed is not None else None,
            # The distribution's own file, which may well be a link.
            firmware=file(uefi.code, os.O_RDONLY, follow=True) if uefi else None,
            variables=file(mine.firmware_variables, os.O_RDWR) if uefi else None,
            console_log=file(mine.console_log, append),
            control=stack.enter_context(listening(mine.qmp_socket)).fileno(),
            metrics=stack.enter_context(listening(mine.metrics_socket)).fileno(),
            console=stack.enter_context(listening(mine.console_socket)).fileno(),
        )
        known = (number for number in asdict(numbers).values() if number is not None)
        yield Opened(numbers, (*known, lock.descriptor), file(mine.qemu_log, append))


def write_pid(mine: InstancePaths, pid: int) -> None:
    """Tell people the pid; holdfast itself believes the lock alone."""
    descriptor = os.open(mine.pid_file, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "w") as file:
        file.write(f"{pid}\n")


def discard(paths: StatePaths, uid: Uid) -> None:
    """Remove the machine's directory and sockets. Raises StopFailed while its process holds them, OSError."""
    mine = paths.instance(checked(uid))
    with suppress(FileNotFoundError):
        lock = Lock.take(mine)
        if lock is None:
            raise StopFailed(f"the files of {uid} are in use: its process still runs")
        try:
            # First: what is half removed is not taken for a machine.
            with suppress(FileNotFoundError):
                mine.description.unlink()
            shutil.rmtree(mine.directory)
        finally:
            lock.release()
    with suppress(FileNotFoundError):
        shutil.rmtree(mine.sockets)
