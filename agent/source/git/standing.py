"""How it stands with a repository, kept from agent to agent: what is followed, what was refused, what was approved.

    record.json            what another agent must know of it; whole at any moment

Who fetches and who approves change it beside each other, each for as long as a small file takes to write: nobody waits
here for a server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent import durable
from agent.errors import Blocked
from agent.source.git.judge import Refusal
from agent.source.git.origin import Origin


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with an origin. `commit`: the last good one, None where there never was one, or where it is `lost`:
    why nobody can tell which it was; `approved`: the one that a person wants to be followed wherever it comes from;
    `error`: why the server could not be asked last time; `asked`: whether it was asked at all since the agent began."""

    commit: str | None = None
    lost: str | None = None
    refused: Refusal | None = None
    approved: str | None = None
    error: str | None = None
    asked: bool = False

    def followed(self, commit: str) -> Standing:
        """That commit is the last good one."""
        return replace(self, commit=commit, lost=None, refused=None, approved=None)

    def but(self, refused: Refusal | None) -> Standing:
        """That commit is refused, and an approval of any other is over."""
        approved = self.approved if refused and refused.commit == self.approved else None
        return replace(self, refused=refused, approved=approved)

    def allowing(self, commit: str) -> Standing:
        """A person lets the commit that was refused pass, and means it by the beginning of its id. Raises Blocked."""
        refused = self.refused
        if refused is None or not refused.commit.startswith(commit):
            hint = f"what waits is {refused.commit[:12]}" if refused else "nothing waits for it"
            raise Blocked(f"approving commit {commit}: it was not refused", hint=hint)
        if not refused.approvable:
            raise Blocked(
                f"approving commit {commit}: {refused.reason}", hint="no approval makes up for that"
            )
        return replace(self, approved=refused.commit)


class Record:
    """The standing of `origin`, remembered in `directory`. Any thread may read it and change it."""

    def __init__(self, directory: Path, origin: Origin) -> None:
        self.standing = Standing()
        self._origin = origin
        self._directory = directory
        self._path = directory / "record.json"
        self._lock = threading.Lock()

    def exists(self) -> bool:
        return self._path.exists()

    def recall(self) -> None:
        """Have it as an earlier agent left it. Raises FileNotFoundError where none did, and OSError, ValueError,
        KeyError or TypeError where what it left cannot be read."""
        record = json.loads(self._path.read_bytes())
        refused = record["refused"]
        self.standing = Standing(
            commit=record["commit"],
            lost=record.get("lost"),
            refused=Refusal(**refused) if refused else None,
            approved=record["approved"],
        )

    def change(self, how: Callable[[Standing], Standing]) -> Standing:
        """Make of the standing what `how` makes of it, and remember of it what another agent must know. Raises OSError,
        and what `how` raises, and has changed nothing then."""
        with self._lock:
            standing = how(self.standing)
            self._keep(standing)
            self.standing = standing
            return standing

    def note(self, error: str) -> None:
        """The server could not be asked; no other agent must know."""
        with self._lock:
            self.standing = replace(self.standing, error=error, asked=True)

    def clear_up(self) -> None:
        """Remove what a killed agent left unfinished in the directory."""
        with self._lock:
            durable.clear_up(self._directory)

    def _keep(self, standing: Standing) -> None:
        refused = asdict(standing.refused) if standing.refused else None
        kept = {"commit": standing.commit, "refused": refused, "approved": standing.approved}
        kept |= {"lost": standing.lost} if standing.lost else {}
        content = json.dumps({"origin": str(self._origin), **kept}, indent=1).encode()
        if not self.exists() or self._path.read_bytes() != content:
            durable.write(self._path, content, replace=True)
