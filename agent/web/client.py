"""A command's way to the agent of its state directory."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from agent.errors import BadInput, Blocked, RetryLater

if TYPE_CHECKING:
    import aiohttp

_LONGEST = 30.0
"""Seconds that an answer is waited for."""
_ON_ITS_WAY = 5.0
"""Seconds before that from which on an agent should not begin with what would be answered too late."""
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
    and BadInput or Blocked where the agent refuses. It is told until when its answer is of use, on the clock that
    processes of a host have in common."""
    by = time.monotonic() + patience - _ON_ITS_WAY
    try:
        return asyncio.run(
            _post(api, f"/api/v1/{what}", patience, {**(query or {}), "by": f"{by}"})
        )
    except Unsure as error:
        raise Unanswered(error.message, hint=_AGAIN) from error


def follow(
    api: Path, what: str, query: Sequence[tuple[str, str]], hear: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """As `ask`, for what takes its time: `hear` is told of each object with a key `far`, and the one without is the
    answer. There is an end to silence, and none to what goes on."""
    try:
        return asyncio.run(_followed(api, f"/api/v1/{what}", query, hear))
    except Unsure as error:
        raise Unanswered(error.message, hint=_AGAIN) from error


async def _post(
    api: Path, path: str, patience: float = _LONGEST, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=patience)
    async with _asked(api, path, list((query or {}).items()), limits) as response:
        return _answer(response, await response.json())


async def _followed(
    api: Path, path: str, query: Sequence[tuple[str, str]], hear: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=_LONGEST, sock_read=_LONGEST)
    async with _asked(api, path, query, limits) as response:
        async for line in response.content:
            told = _answer(response, json.loads(line))
            if "far" not in told:
                return told
            hear(told)
    raise Unsure(f"asking the agent on {api}: it left before its answer was whole")


@asynccontextmanager
async def _asked(
    api: Path, path: str, query: Sequence[tuple[str, str]], limits: aiohttp.ClientTimeout
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer, in whose block what cannot be read of it is Unsure. Raises Unanswered."""
    import aiohttp

    tried = f"asking the agent on {api}"
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(os.fspath(api)), timeout=limits
            ) as session,
            session.post(f"http://agent{path}", params=query) as response,
        ):
            yield response
    except aiohttp.ClientConnectorError as error:
        raise Unanswered(f"{tried}: {error}", hint=_AGAIN) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unsure(f"{tried}: {str(error) or 'no answer'}") from error


def _answer(response: aiohttp.ClientResponse, told: object) -> dict[str, Any]:
    """What was told. Raises BadInput or Blocked where the agent refuses, and ValueError for what is no answer."""
    if not isinstance(told, dict):
        raise ValueError(f"it answered {response.status} and no JSON object")  # noqa: TRY004
    if response.status == 200:
        return told
    refusal = BadInput if response.status == 404 else Blocked
    raise refusal(str(told.get("error")), hint=str(told.get("hint") or ""))
