"""One connection to the control monitor of a QEMU: the only doorway to QMP (docs/interop/qmp-spec.rst of QEMU)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

from agent.errors import MonitorError
from state.spec.words import excerpt

# What it has to say reaches us as exceptions.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_LOST = (QMPError, OSError, EOFError, TimeoutError, AssertionError, ValueError, RecursionError)
"""What qemu.qmp 0.0.6 raises when a line is lost, or holds what no QEMU says: it asserts that a line lives on once it
has greeted, and lets through what Python says of bytes that are no text and of brackets without an end."""


class _Client(QMPClient):
    """Without the log of every message: the library writes each out, indented, whether anybody reads it or not, which
    is much of what listening to many machines costs. Its documentation has these two for subclasses to replace."""

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class Connection:
    """What may be asked of it. Whatever goes wrong, and none but that, is a MonitorError."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def changed(self) -> None:
        """Return when the connection is no longer what it was: when it is lost."""
        await self._client.runstate_changed()

    async def ask(self, command: str, deadline: float | None) -> dict[str, Any]:
        """The object that is answered within `deadline` seconds; None: whenever it comes."""
        reply = await self.execute(command, None, deadline)
        if not isinstance(reply, dict):
            raise MonitorError(f"{command} was answered with no object")
        return cast(dict[str, Any], reply)

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None, deadline: float | None
    ) -> object:
        """What the command returns. Where it is lost or too late, it may have been carried out."""
        with _translated(command):
            async with asyncio.timeout(deadline):
                return await self._client.execute(command, arguments)


@asynccontextmanager
async def connected(
    socket: Path, heard: Callable[[Mapping[str, Any]], bool], seconds: float
) -> AsyncIterator[Connection]:
    """A connection that was made within `seconds`, for as long as the block lasts; `heard` is told of every event and
    returns False. Raises MonitorError."""
    client = _Client()
    # The listener would keep every event for ever; a filter that accepts none hears them all.
    client.events.event_filter = heard
    try:
        with _translated("connect"):
            async with asyncio.timeout(seconds):
                await client.connect(str(socket))
        yield Connection(client)
    finally:
        # Also takes the exceptions of the library's own tasks, so it must not be cut off: asyncio would print
        # them. A socket that cannot be flushed is let go.
        closing = asyncio.ensure_future(client.disconnect())
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        with suppress(*_LOST):
            async with asyncio.timeout(1):
                await asyncio.shield(closing)


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
