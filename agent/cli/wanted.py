"""What is wanted, for a command that only looks: as the agent has it, or as the next one would have it.

It changes nothing in the state directory, in which an agent may be at work, or begin to be.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import Settings
from agent.errors import RetryLater
from agent.paths import StatePaths
from state.records import SOURCE_KEY

if TYPE_CHECKING:
    from agent.source.git.origin import Origin
    from state.desired import Desired
    from state.records import Reader

_TRIES = 3


def wanted(settings: Settings, state: StatePaths, reader: Reader | None, now: float) -> Desired:
    """What the source says at the Unix time `now`. Without an agent a repository is asked anew. Raises RetryLater where
    agents come and go meanwhile."""
    from agent.cli.compose import open_source, origin_of
    from agent.statedir import holder

    origin = origin_of(settings)
    for _ in range(_TRIES):
        if origin is None:
            return open_source(settings, state).load(now)
        if holder(state) is not None:
            desired = open_source(settings, state).load(now)
            return desired if reader is None else _as_asked(desired, reader)
        if (asked := _asked(settings, state, origin, now)) is not None:
            return asked
    raise RetryLater(
        f"reading what {state.root} has of {origin}: it keeps changing", hint="try again"
    )


def _as_asked(desired: Desired, reader: Reader) -> Desired:
    """With what came of the agent's asking of the server, which it alone knows."""
    told = json.loads(reader.meta(SOURCE_KEY) or "{}")
    if told.get("location") != desired.source.location:
        return desired  # another source was said
    error, refused = told.get("error"), told.get("refused")
    return replace(desired, source=replace(desired.source, error=error, refused=refused))


def _asked(settings: Settings, state: StatePaths, origin: Origin, now: float) -> Desired | None:
    """What the server says, asked as the next agent would ask it first, into a clone that is thrown away; None where an
    agent has begun before the clone that there is was copied whole."""
    from agent.cli.compose import open_source
    from agent.source.git.source import GitSource
    from agent.statedir import holder

    with tempfile.TemporaryDirectory(prefix="holdfast-") as directory:
        beside = StatePaths(Path(directory))
        clone = state.git / origin.key
        try:
            if clone.exists():
                shutil.copytree(clone, beside.git / origin.key)
        except (shutil.Error, OSError):
            return None
        if holder(state) is not None:
            return None
        source = open_source(settings, beside)
        assert isinstance(source, GitSource)  # noqa: S101 - as the settings say
        source.fetch()
        return source.load(now)
