"""A command's way to the agent of its state directory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.errors import BadInput, Blocked, RetryLater

_LONGEST = 30.0
"""Seconds that an answer is waited for."""


class Unanswered(RetryLater):
    """No agent answers: it starts, or leaves, or cannot be reached."""


def ask_of_job(api: Path, name: str, what: str) -> dict[str, Any]:
    """Ask for `rerun` or `cancel` of a job. Raises Unanswered, and BadInput or Blocked where the agent refuses."""
    return asyncio.run(_post(api, f"/api/v1/jobs/{quote(name, safe='')}/{what}"))


async def _post(api: Path, path: str) -> dict[str, Any]:
    import aiohttp

    tried = f"asking the agent on {api}"
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(os.fspath(api)),
                timeout=aiohttp.ClientTimeout(total=_LONGEST),
            ) as session,
            session.post(f"http://agent{path}") as response,
        ):
            told = await response.json()
            status = response.status
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unanswered(
            f"{tried}: {str(error) or 'no answer'}", hint="it may be starting or leaving: try again"
        ) from error
    if not isinstance(told, dict):
        raise Unanswered(f"{tried}: it answered {status} and no JSON object")
    if status == 200:
        return told
    refusal = BadInput if status == 404 else Blocked
    raise refusal(str(told.get("error")), hint=str(told.get("hint") or ""))
