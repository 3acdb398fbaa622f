"""What a person asks of the agent as a whole: to let a plan pass, to leave everything alone, to look now.

It writes the ledger, so it belongs to the process that holds the state directory: the agent, or a command where there
is none. It does not know how it was asked.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.doing import Doing
from agent.errors import Blocked
from agent.fetching import Fetching
from agent.hypervisor.api import Backend
from agent.intent import Clock
from agent.orders import Brought, Tell, bring, ordered
from agent.planned import Fence, Plan
from agent.stock import described, prune, unneeded
from state.desired import Desired
from state.history import Event
from state.ledger import Ledger
from state.observed import StoredImage
from state.records import APPROVED_KEY, SUSPENDED_KEY
from state.spec.resolved import ImageSpec

RECONCILE = "somebody asked for it"


class Repository(Protocol):
    """Where documents come from, if that can refuse a commit."""

    def refused(self) -> str | None:
        """The commit that waits for a person's approval."""

    async def approve(self, commit: str) -> str:
        """Follow it; the whole of its id. Raises Blocked. Waits for no server."""

    def soon(self) -> None:
        """Ask the server now."""

    async def ask(self) -> None:
        """As `soon`; returns when it has answered what it was asked since, or has not."""


class Operator:
    """The word of one person at a time. `look` wakes the loop."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        backend: Backend,
        look: Callable[[str], None] = lambda _: None,
        repository: Repository | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._backend = backend
        self._look = look
        self.repository = repository
        self._fence: Fence | None = None
        self._desired: Desired | None = None
        self._waiting: list[asyncio.Future[Desired]] = []
        self._served: list[asyncio.Future[Desired]] = []

    def began(self) -> None:
        """A pass begins: it is one for all who have asked so far, and for nobody who asks later."""
        self._served += self._waiting
        self._waiting = []

    def passed(self, plan: Plan, desired: Desired) -> None:
        """A pass was made: what waits for approval is what it found."""
        self._fence, self._desired = plan.fence, desired
        served, self._served = self._served, []
        for one in served:
            if not one.done():
                one.set_result(desired)

    async def approve(self, said: str | None, by: float = math.inf) -> str:
        """Let that plan, or that commit, pass; None: the only one that waits. What was approved, as a sentence part.
        Raises Blocked where it is not what waits, and where it is later than `by`, in seconds of the loop's clock."""
        await self._ledger.free()
        self._in_time(by)
        commit = self.repository.refused() if self.repository is not None else None
        fence = self._fence
        waits = [id for id in (fence.id if fence else None, commit) if id is not None]
        found = [id for id in waits if _meant(id, said)]
        if len(found) != 1:
            raise Blocked(
                f"approving {said}: it is not what waits"
                if said
                else f"approving: {'two things wait' if found else 'nothing waits for it'}",
                hint=self._hint(commit),
            )
        if fence is not None and found == [fence.id]:
            self._put(APPROVED_KEY, json.dumps(sorted(fence.uids)))
            number = len(fence.uids)
            what = f"the destruction of {number} VM{'s' * (number != 1)}"
            self._tell("Approved", f"{what} (plan {fence.id}) by hand")
        else:
            assert self.repository is not None  # noqa: S101 - what waits is its commit
            commit = await self.repository.approve(found[0])
            await self._ledger.free()
            what = f"commit {commit[:12]}"
            self._tell("Approved", f"{what} by hand")
            self.repository.soon()
        self._look("an approval")
        return what

    async def suspend(self) -> bool:
        """Leave everything alone from now on, also the agents after this one; whether it was not so already."""
        if self._ledger.meta(SUSPENDED_KEY):
            return False
        await self._ledger.free()
        self._put(SUSPENDED_KEY, str(self._clock().wall))
        self._tell("Suspended", "everything is left as it is, by hand")
        self._look("it is suspended")
        return True

    async def resume(self) -> bool:
        """Go on; whether the agent was suspended."""
        if not self._ledger.meta(SUSPENDED_KEY):
            return False
        await self._ledger.free()
        self._put(SUSPENDED_KEY, "")
        self._tell("Resumed", "everything is kept as the documents say, by hand")
        self._look("it is resumed")
        return True

    async def reconcile(self) -> Desired:
        """Ask the repository, if there is one, and look; what is wanted by a pass that began after that."""
        if self.repository is not None:
            await self.repository.ask()
        seen: asyncio.Future[Desired] = asyncio.get_running_loop().create_future()
        self._waiting.append(seen)
        self._look(RECONCILE)
        return await seen

    def _in_time(self, by: float) -> None:
        """What is answered too late is taken for not done, and must not be."""
        if asyncio.get_running_loop().time() > by:
            raise Blocked("approving: it took too long to answer", hint="nothing was approved")

    def _hint(self, commit: str | None) -> str:
        waits = [f"plan {self._fence.id}"] if self._fence else []
        waits += [f"commit {commit[:12]}"] if commit else []
        return (
            f"what waits is {' and '.join(waits)}" if waits else "`holdfast plan` says what waits"
        )

    async def prune(self, *, dry_run: bool = False) -> list[StoredImage]:
        """Take the images out of the store that nobody needs, or only find them; which. Raises Blocked where it cannot
        be told who needs what."""
        desired = self._desired
        tried = "removing the images that nobody needs"
        if desired is None:
            raise Blocked(f"{tried}: no documents were read yet", hint="try again in a moment")
        if desired.unproven is not None:
            hint = "mend the documents first: they may ask for any of them"
            raise Blocked(f"{tried}: {desired.unproven}", hint=hint)
        if dry_run:
            return await unneeded(self._ledger, self._backend, desired)
        taken = await prune(self._ledger, self._backend, desired)
        await self._ledger.free()
        for one in taken:
            self._tell("ImageRemoved", f"{described(one)} was removed by hand")
        return taken

    def ordered(self, words: Sequence[str]) -> list[ImageSpec]:
        """The images that are meant. Raises BadInput and Blocked: see `agent.orders`."""
        if self._desired is None:
            hint = "try again in a moment"
            raise Blocked("fetching images: no documents were read yet", hint=hint)
        return ordered(self._desired, words)

    async def fetch(self, images: Sequence[ImageSpec], tell: Tell) -> list[Brought]:
        """Have the images in the store, now; what came of each."""
        assert self._desired is not None  # noqa: S101 - they are of it
        fetching = Fetching(self._ledger, self._backend, self._clock, Doing())
        found = await bring(images, fetching, self._backend.images, self._desired, tell)
        if any(one.fetched for one in found):
            self._look("an image was fetched by hand")
        return found

    def _put(self, key: str, value: str) -> None:
        with self._ledger.transaction() as change:
            change.put_meta(key, value)

    def _tell(self, word: str, said: str) -> None:
        with self._ledger.transaction() as change:
            change.event(Event(at=self._clock().wall, reason=word, message=said))


_SHORTEST = 4


def _meant(id: str, said: str | None) -> bool:
    return said is None or (len(said) >= _SHORTEST and id.startswith(said.lower()))
