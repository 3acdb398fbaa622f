"""What the running Linux host says of itself: its boot, its clock, its listening ports, the uids it can give out."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from state.observed import Listener

# systemd's "UIDS-GIDS" page calls these unused by every convention; the first only exists where all of the 32-bit uids
# are mapped, the second also inside a container that maps 65536 of them.
_RUN_AS = (range(1_900_000_000, 1_900_100_000), range(60_578, 61_184))
_TCP_LISTEN = "0A"
# What a container sees of its own limit, in the second and the first version of control groups.
_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class LinuxHost:
    """The host that the agent runs on. Disks of guests lie below `disks`."""

    def __init__(self, disks: Path) -> None:
        self._disks = disks
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def listeners(self, of_interest: Collection[int]) -> Sequence[Listener]:
        """From `/proc/net/tcp` and `tcp6`, whose columns proc(5) gives. A wildcard IPv6 socket takes the IPv4 port too;
        other IPv6 sockets do not matter to an IPv4 forward."""
        found = {*_listening(Path("/proc/net/tcp")), *_listening(Path("/proc/net/tcp6"))}
        owners = _owners() if any(port in of_interest for _, port in found) else {}
        return [
            Listener(address, port, *owners.get((address, port), (None, "another program")))
            for address, port in sorted(found)
        ]

    def free_memory(self, promised: Mapping[int, int]) -> int | None:
        """What the kernel calls available, less what guests have been promised and not touched yet."""
        import psutil

        free = int(psutil.virtual_memory().available)
        for pid, size in promised.items():
            with suppress(psutil.Error):
                free -= max(0, size - int(psutil.Process(pid).memory_info().rss))
        return free

    def free_disk(self) -> int | None:
        try:
            return shutil.disk_usage(self._disks).free
        except OSError:
            return None


def memory(limits: Sequence[Path] = _MEMORY_LIMITS) -> int:
    """Bytes of memory that this host has, or the container that we are in, where that has less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in limits:
        with suppress(OSError, ValueError):  # no such file, or `max`
            found.append(int(limit.read_text()))
    return min(found)


def ephemeral_ports() -> range:
    """From which the kernel takes the ports of outgoing connections: `ip_local_port_range` of ip(7). Its default where
    that cannot be read."""
    try:
        told = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return range(int(told[0]), int(told[1]) + 1)
    except (OSError, ValueError, IndexError):
        return range(32768, 61000)


def run_as_range() -> range | None:
    """Uids that QEMU processes may get: None unless this process is root and they are mapped."""
    if os.geteuid() != 0:
        return None
    mapped = [
        range(int(inside), int(inside) + int(length))
        for inside, _, length in (
            line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()
        )
    ]
    for wanted in _RUN_AS:
        if any(wanted.start in part and wanted[-1] in part for part in mapped):
            return wanted
    return None


def _listening(table: Path) -> Sequence[tuple[str, int]]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    found = []
    for line in lines:
        columns = line.split()
        if columns[3] != _TCP_LISTEN:
            continue
        address, port = columns[1].split(":")
        if (shown := _ipv4(address)) is not None:
            found.append((shown, int(port, 16)))
    return found


def _ipv4(address: str) -> str | None:
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    match words:
        case [word] | [0, 0, 0xFFFF0000, word]:
            return socket.inet_ntoa(struct.pack("=I", word))
        case [0, 0, 0, 0]:
            return "0.0.0.0"  # noqa: S104 - shown, never bound
        case _:
            return None


def _owners() -> dict[tuple[str, int], tuple[int | None, str]]:
    """Who listens where, as far as this user may see."""
    import psutil

    owners: dict[tuple[str, int], tuple[int | None, str]] = {}
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return owners
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.pid or not connection.laddr:
            continue
        ip = connection.laddr.ip.removeprefix("::ffff:")
        address = "0.0.0.0" if ip == "::" else ip  # noqa: S104
        try:
            name = psutil.Process(connection.pid).name()
        except psutil.Error:
            name = "another program"
        owners[address, connection.laddr.port] = (connection.pid, name)
    return owners
