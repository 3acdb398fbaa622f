"""Asks a service of a guest whether it serves, in ways that only the guest itself can answer.

A connection to a host forward proves nothing, since user-mode networking accepts it for the guest, also for one that
hangs. So it counts once QEMU tells that the guest has accepted it too, or once words have come back. Where no forward
leads to the port, it is asked from inside, through an SSH login that is kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any, Protocol

from agent.errors import NotReady
from agent.guest.ssh import Tunnel, endpoint
from agent.paths import StatePaths
from agent.worker import alone
from state.ids import Name, Uid
from state.observed import Ways
from state.spec.resolved import Forward, HealthSpec
from state.spec.vm import ANYWHERE
from state.spec.words import printable

Accepted = Callable[[Uid, Forward], Awaitable[frozenset[int]]]
"""What tells the connections through a forward that the guest has accepted, a number for each. Raises MonitorError."""

BETWEEN_LOOKS = 0.05
"""Seconds from one question to QEMU to the next."""


class _Line(Protocol):
    """A connection into the guest: a socket, or a channel of SSH."""

    def close(self) -> None: ...


class GuestCheckups:
    """Checks by TCP and HTTP of one state directory's guests."""

    def __init__(self, paths: StatePaths, accepted: Accepted) -> None:
        self._paths = paths
        self._accepted = accepted
        self._tunnels: dict[Uid, Tunnel] = {}

    async def check(self, uid: Uid, name: Name, ways: Ways, health: HealthSpec) -> None:
        forward = next((one for one in ways.forwards if one.guest == health.port), None)
        if forward is None:
            await self._from_inside(uid, name, ways, health)
        elif health.check == "tcp":
            await self._accepts(uid, forward)
        else:
            await _asked(name, health, partial(_connected, forward, health.timeout))

    def forget(self, uid: Uid) -> None:
        if (tunnel := self._tunnels.pop(uid, None)) is not None:
            tunnel.close()

    async def _from_inside(self, uid: Uid, name: Name, ways: Ways, health: HealthSpec) -> None:
        tunnel = self._tunnel(uid, name, ways)
        try:
            await _asked(name, health, partial(tunnel.reach, health.port or 0, health.timeout))
        except asyncio.CancelledError:
            # A thread may still be at it, and the next check must not share it.
            self.forget(uid)
            raise

    def _tunnel(self, uid: Uid, name: Name, ways: Ways) -> Tunnel:
        if ways.ssh_port is None:
            raise NotReady(
                f"nothing leads to {name}: its image takes no key, and it has no forward"
            )
        found = self._tunnels.get(uid)
        to = endpoint(self._paths, name, ways.ssh_port, ways.user)
        if found is None or found.to != to:
            self.forget(uid)
            found = self._tunnels[uid] = Tunnel(self._paths, name, to)
        return found

    async def _accepts(self, uid: Uid, forward: Forward) -> None:
        """Whoever of all that connect is accepted by the guest from now on proves that it accepts."""
        before = await self._accepted(uid, forward)
        try:
            reader, writer = await asyncio.open_connection(_address(forward), forward.host)
        except OSError as error:
            raise _refused(forward, error) from error
        word = asyncio.ensure_future(_word(reader))
        try:
            while not word.done() and not await self._accepted(uid, forward) - before:
                await asyncio.wait((word,), timeout=BETWEEN_LOOKS)
            if word.done() and not word.result():
                raise NotReady("the guest refuses the connection, or closes it at once")
        finally:
            word.cancel()
            writer.close()


async def _word(reader: asyncio.StreamReader) -> bytes:
    """What the other side says; nothing where it hangs up."""
    try:
        return await reader.read(1)
    except OSError:
        return b""


async def _asked(name: Name, health: HealthSpec, connect: Callable[[], _Line]) -> None:
    """Connect, and have the request answered, in a thread that a guest can keep waiting only as long as we wait."""
    lines: list[_Line] = []

    def ask() -> None:
        with closing(connect()) as line:
            lines.append(line)
            if health.check == "http":
                _served(name, health, line)

    try:
        await alone(f"health-{name}", ask)
    finally:
        for line in lines:
            with suppress(OSError, EOFError):
                line.close()


def _served(name: Name, health: HealthSpec, line: Any) -> None:
    """Raises NotReady unless a GET is answered with the status. A redirect is an answer like any other."""
    import http.client  # with it comes all that reads mail, which only this check needs

    connection = http.client.HTTPConnection(name, health.port, timeout=health.timeout)
    connection.sock = line
    try:
        connection.request("GET", health.path, headers={"User-Agent": "holdfast"})
        status = connection.getresponse().status
    except (OSError, EOFError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise NotReady(printable(f"GET {health.path} was not answered: {why}")) from error
    if status != health.status:
        raise NotReady(f"GET {health.path} was answered with {status}, not {health.status}")


def _connected(forward: Forward, timeout: float) -> socket.socket:
    try:
        return socket.create_connection((_address(forward), forward.host), timeout=timeout)
    except OSError as error:
        raise _refused(forward, error) from error


def _refused(forward: Forward, error: OSError) -> NotReady:
    return NotReady(f"the forward of port {forward.host} refuses: {error.strerror or error}")


def _address(forward: Forward) -> str:
    return "127.0.0.1" if forward.address == ANYWHERE else forward.address
