"""What machines in memory use: a little of everything, for as long as they run."""

from __future__ import annotations

from collections.abc import Mapping

from agent.hypervisor.api import DiskUsage, RunState, Usage
from agent.hypervisor.memory.world import Guest, MemoryWorld
from state.ids import TICKS_PER_SECOND, Process, Uid

_SHARE = 0.02
"""Of a processor that each of a guest's is busy."""
_BLOCK = 4096
"""Bytes that a guest writes in a second, in one request; it reads twice as much while it boots, and nothing later."""


class MemoryMeter:
    """The usage of the machines of a host in memory."""

    def __init__(self, host: MemoryWorld) -> None:
        self._host = host

    async def read(self, machines: Mapping[Uid, Process]) -> Mapping[Uid, Usage]:
        await self._host.act("read")
        guests = {uid: self._host.guests.get(uid) for uid in machines}
        return {
            uid: self._usage(guest, machines[uid])
            for uid, guest in guests.items()
            if guest is not None and guest.process == machines[uid] and not guest.frozen
        }

    def close(self) -> None:
        pass

    def _usage(self, guest: Guest, process: Process) -> Usage:
        machine = guest.machine
        lived = self._host.boottime() - process.start_ticks / TICKS_PER_SECOND
        seconds = max(0.0, lived) if guest.state is not RunState.INERT else 0.0
        written = int(seconds) * _BLOCK
        return Usage(
            process=process,
            state=guest.state,
            cpu_seconds=_SHARE * seconds * machine.cpus,
            vcpu_seconds=(_SHARE * seconds,) * machine.cpus,
            resident_bytes=machine.memory // 2,
            allocated_bytes=written,
            disks=(
                DiskUsage("root", 2 * _BLOCK * guest.boots, written, 2 * guest.boots, int(seconds)),
            ),
            balloon_bytes=machine.memory,
        )
