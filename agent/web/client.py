"""A command's way to the agent of its state directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from agent.errors import BadInput, Blocked, RetryLater

_LONGEST = 30.0
"""Seconds that an answer is waited for."""
_AGAIN = "it may be starting or leaving: try again"


class Unanswered(RetryLater):
    """No agent answers: it starts, or leaves, or cannot be reached. What was asked for can be asked again."""


class Unsure(Blocked):
    """The agent was asked, and its answer was lost: it may have done what was asked for."""


def ask_of_job(api: Path, name: str, what: Literal["rerun", "cancel"]) -> dict[str, Any]:
    """Ask for a job's rerun or cancelling. Raises Unanswered, Unsure where asking again would do it twice, and BadInput
    or Blocked where the agent refuses."""
    try:
        return asyncio.run(_post(api, f"/api/v1/jobs/{quote(name, safe='')}/{what}"))
    except Unsure as error:
        if what == "cancel":
            raise Unanswered(error.message, hint=_AGAIN) from error
        hint = f"it may be queued: see `holdfast job history {name}` before you ask again"
        raise Unsure(error.message, hint=hint) from error


def ask(
    api: Path, what: str, query: Mapping[str, str] | None = None, *, patience: float = _LONGEST
) -> dict[str, Any]:
    """Ask for something that does no harm when it is asked twice. Raises Unanswered, also where the answer was lost,
    and BadInput or Blocked where the agent refuses."""
    try:
        return asyncio.run(_post(api, f"/api/v1/{what}", patience, query))
    except Unsure as error:
        raise Unanswered(error.message, hint=_AGAIN) from error


async def _post(
    api: Path, path: str, patience: float = _LONGEST, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    import aiohttp

    tried = f"asking the agent on {api}"
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(os.fspath(api)),
                timeout=aiohttp.ClientTimeout(total=patience),
            ) as session,
            session.post(f"http://agent{path}", params=query) as response,
        ):
            told = await response.json()
            status = response.status
    except aiohttp.ClientConnectorError as error:
        raise Unanswered(f"{tried}: {error}", hint=_AGAIN) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unsure(f"{tried}: {str(error) or 'no answer'}") from error
    if not isinstance(told, dict):
        raise Unsure(f"{tried}: it answered {status} and no JSON object")
    if status == 200:
        return told
    refusal = BadInput if status == 404 else Blocked
    raise refusal(str(told.get("error")), hint=str(told.get("hint") or ""))
