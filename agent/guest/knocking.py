"""Whether anybody speaks SSH behind a port that user-mode networking forwards.

It accepts a connection before the guest has a network, and passes it on only seconds after it has one. So only words
from the other side prove that somebody is there, and a fresh connection is answered sooner than an old one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from agent.errors import NotReady
from state.ids import Name

BANNER_TIMEOUTS = (1.0, 1.0, 1.0, 5.0)
"""Seconds to wait for the other side's first word, try by try: the longer one now and then is for a guest that is too
busy to speak within one."""
BETWEEN_KNOCKS = 0.25
"""Seconds from one knock of somebody who waits at the door to the next, beside those that are still unanswered."""


async def knocks(name: Name, port: int, patience: float) -> None:
    """Knock again and again, until one of the knocks is answered. Raises NotReady after `patience` seconds."""
    answered = asyncio.Event()

    async def knock() -> None:
        with suppress(NotReady):
            await banner(name, port, patience)
            answered.set()

    async with asyncio.TaskGroup() as group:
        tries: list[asyncio.Task[None]] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not answered.is_set():
                    tries.append(group.create_task(knock()))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(BETWEEN_KNOCKS):
                            await answered.wait()
        for one in tries:
            one.cancel()
    if not answered.is_set():
        raise NotReady(f"knocking at {name} on port {port}: no answer")


async def banner(name: Name, port: int, patience: float) -> None:
    """Knock once. Raises NotReady when no banner of SSH comes within `patience` seconds."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = await reader.read(4)
    except (OSError, TimeoutError) as error:
        raise NotReady(f"knocking at {name} on port {port}: {str(error) or 'no answer'}") from error
    finally:
        if writer is not None:
            writer.close()
    if line != b"SSH-":
        raise NotReady(f"knocking at {name} on port {port}: nobody speaks SSH there yet")
