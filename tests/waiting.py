"""Waiting for the world in tests: on a condition, with a deadline, and with words for the day it is not met."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DEADLINE = 20.0
_LOOK_AGAIN = 0.01


async def eventually(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Return as soon as the condition holds. Raises AssertionError when `seconds` are over first."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"after {seconds:g} s it is not so that {what}"
        await asyncio.sleep(_LOOK_AGAIN)
