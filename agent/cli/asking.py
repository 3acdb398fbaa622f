"""Asking for something that the agent does where one runs, and this process where none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from agent.cli.reading import open_reader
from agent.errors import StateInUse
from agent.paths import StatePaths

T = TypeVar("T")

_PATIENCE = 20.0
"""Seconds that an agent gets to answer which has just started, or to leave."""
_KNOCK = 0.1


def either(
    state: StatePaths, by_agent: Callable[[], T], alone: Callable[[], T], *, makes: bool = False
) -> T:
    """What the agent of the state directory answers; what `alone` does where there is none. Raises what they raise, and
    StateUnusable where there is no state directory, unless `alone` makes one that is meant."""
    from agent.statedir import holder
    from agent.web.client import Unanswered

    if not makes:
        open_reader(state).close()  # holding a state directory would make one
    waiting, end = threading.Event(), time.monotonic() + _PATIENCE
    while True:
        try:
            return alone() if holder(state) is None else by_agent()
        except (StateInUse, Unanswered):
            # It has just come, or is just leaving, or another command holds the directory for a moment.
            if time.monotonic() > end:
                raise
        waiting.wait(_KNOCK)
