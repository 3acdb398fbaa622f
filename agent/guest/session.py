"""One login into a guest, for the event loop: everything is done in a thread of its own, and waited for so long and no
longer.

A connection that broke or fell silent ends the session; nothing of the guest ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agent.errors import GuestRefused, SessionLost
from agent.guest import artifacts
from agent.guest.content import size_of
from agent.guest.sftp import Broken, Refused
from agent.guest.workplace import Line, Workplace
from agent.worker import Worker
from state.ids import Name
from state.spec.words import printable
from state.work import Collected, Content, Limits, Look

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds for what takes a guest a moment; one under emulation beside others takes its time."""
_SLOWEST = 256 << 10
"""Bytes a second that a guest takes at the least; one under emulation takes some megabytes."""


class GuestSession:
    """A session as the seam has it (`Session`)."""

    def __init__(self, name: Name, line: Line, place: Workplace, worker: Worker) -> None:
        self._name, self._line, self._place, self._worker = name, line, place, worker
        self._over = ""
        self._left = False

    @classmethod
    async def open(cls, name: Name, login: Callable[[], Line], within: float) -> GuestSession:
        """Log in by `login`, in the session's thread. Raises what that raises, SessionLost and GuestRefused."""
        worker = Worker(f"session-{name}")
        lines: list[Line] = []

        def arrive() -> Workplace:
            line = login()
            lines.append(line)
            return Workplace(line)

        def leave() -> None:
            for line in lines:
                line.cut()
                line.close()

        try:
            place = await _told(f"opening a session in {name}", worker.submit(arrive), within)
        except BaseException:
            for line in lines:
                line.cut()
            worker.leave(leave)
            raise
        return cls(name, lines[0], place, worker)

    @property
    def boot(self) -> str:
        return self._place.boot

    async def upload(
        self,
        run: str,
        script: Content,
        env: Mapping[str, str],
        files: Sequence[tuple[str, Content, int]],
    ) -> None:
        size = size_of(script) + sum(size_of(content) for _, content, _ in files)
        within = _PATIENCE * (1 + len(files) / 16) + size / _SLOWEST
        await self._do(
            "putting its script into", lambda: self._place.upload(run, script, env, files), within
        )

    async def begin(self, run: str) -> bool:
        return await self._do("starting the script in", lambda: self._place.begin(run), _PATIENCE)

    async def look(self, run: str, offset: int, at_most: int) -> Look:
        within = _PATIENCE + at_most / _SLOWEST
        return await self._do(
            "looking at the script in", lambda: self._place.look(run, offset, at_most), within
        )

    async def collect(
        self, run: str, patterns: Sequence[str], into: Path, limits: Limits
    ) -> Collected:
        return await self._do(
            "collecting artifacts of",
            lambda: artifacts.collect(self._place.sftp, patterns, into, limits),
            limits.seconds + _PATIENCE,
        )

    async def close(self) -> None:
        self._end("it was closed")
        if not self._left:
            self._left = True
            self._worker.leave(self._line.close)

    async def _do(self, doing: str, job: Callable[[], T], within: float) -> T:
        what = f"{doing} {self._name}"
        if self._over:
            raise SessionLost(f"{what}: the session is over: {self._over}")
        try:
            return await _told(what, self._worker.submit(job), within)
        except SessionLost as error:
            self._end(error.message)
            raise

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._line.cut()


async def _told(what: str, answer: asyncio.Future[T], within: float) -> T:
    try:
        async with asyncio.timeout(within):
            return await answer
    except TimeoutError as error:
        raise SessionLost(f"{what}: nothing came within {within:.0f} s") from error
    except Broken as error:
        raise SessionLost(printable(f"{what}: {error}")) from error
    except Refused as error:
        raise GuestRefused(printable(f"{what}: the guest refused: {error}")) from error
