"""A login into a guest that exists in memory. Whatever ends the guest's boot ends it, and so does `MemoryWorld.cut`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.errors import GuestRefused, SessionLost
from agent.guest import artifacts
from agent.guest.content import pieces
from agent.hypervisor.api import Collected, Content, Limits, Look
from agent.hypervisor.memory.work import Leavings, Work
from agent.hypervisor.memory.world import Guest, MemoryWorld
from state.ids import Name, Uid


class MemorySession:
    """A session as the seam has it. `delays` and `failures` of the host are looked up under the methods' names."""

    def __init__(self, host: MemoryWorld, uid: Uid, name: Name) -> None:
        self._host, self._uid, self._name = host, uid, name
        self._cuts = host.guests[uid].cuts
        self._boot = host.guests[uid].boot
        self._over = ""

    @property
    def boot(self) -> str:
        return self._boot

    async def upload(
        self,
        run: str,
        script: Content,
        env: Mapping[str, str],
        files: Sequence[tuple[str, Content, int]],
    ) -> None:
        guest = await self._reach("upload", "putting its script into")
        work = guest.works.get(run)
        if work is None or work.begun_at is None:
            contents = {path: b"".join(pieces(content)) for path, content, _ in files}
            scripted = self._host.script_of(self._name)
            guest.works[run] = Work(b"".join(pieces(script)), dict(env), contents, scripted)

    async def begin(self, run: str) -> bool:
        guest = await self._reach("begin", "starting the script in")
        work = guest.works.get(run)
        if work is None:
            raise GuestRefused(
                f"starting the script in {self._name}: the guest refused: its script is not there"
            )
        if work.begun_at is not None:
            return False
        work.begun_at = self._host.clock()
        self._host.begins(run, work)
        return True

    async def look(self, run: str, offset: int, at_most: int) -> Look:
        guest = await self._reach("look", "looking at the script in")
        work = guest.works.get(run)
        if work is None:
            return Look(begun=False)
        return work.look(self._host.clock(), offset, at_most)

    async def collect(
        self, run: str, patterns: Sequence[str], into: Path, limits: Limits
    ) -> Collected:
        guest = await self._reach("collect", "collecting artifacts of")
        work = guest.works.get(run)
        left = work.scripted.leaves if work is not None and work.begun_at is not None else {}
        return artifacts.collect(Leavings(left), patterns, into, limits)

    async def close(self) -> None:
        self._over = "it was closed"

    async def _reach(self, operation: str, doing: str) -> Guest:
        """The guest, if this session still leads into it, after the time that the operation takes."""
        for after in (False, True):
            guest = self._host.guests.get(self._uid)
            if not self._over and (guest is None or guest.cuts != self._cuts):
                self._over = "the connection was closed"
            if not self._over and not self._host.lets_in(self._uid):
                self._over = "nothing came"
            if self._over or guest is None:
                raise SessionLost(f"{doing} {self._name}: {self._over}")
            if after:
                return guest
            await self._host.act(operation)
        raise AssertionError("the loop returns or raises")
