"""Whether guests reach the host itself, as `--loopback` says: the fence around them, and what is told of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.cli.compose import wall
from agent.errors import RetryLater
from agent.host import run_as_range
from agent.hypervisor.qemu import fence
from agent.worker import alone
from state.history import Event
from state.records import FENCE_KEY

if TYPE_CHECKING:
    from agent.config import Settings
    from state.ledger import Ledger

_REACH = "guests with egress reach"


def begin(ledger: Ledger, settings: Settings) -> Kept | None:
    """Put the fence up or take it away, and tell why that cannot be. What keeps it up; None where nothing is to be
    kept."""
    if settings.hypervisor == "memory":
        return None
    if settings.loopback == "open":
        _open(ledger)
        return None
    kept = Kept(ledger, run_as_range())
    kept.begin()
    return kept


class Kept:
    """The fence of a running agent."""

    def __init__(self, ledger: Ledger, uids: range | None) -> None:
        self._ledger = ledger
        self._uids = uids
        self._fence = fence.Fence(uids)
        self._why = ""

    def begin(self) -> None:
        """Put it up."""
        found = self._fence.look()
        self._take(found)
        if not found.why:
            _remember(self._ledger, "up")

    async def keep(self, every: float) -> None:
        """Look after it, every so many seconds. Returns at once where this process can never have one."""
        while self._uids is not None:
            await asyncio.sleep(every)
            with suppress(RetryLater):  # no thread is to be had: later
                found = await alone("fence", self._fence.look)
                self._take(found)
                if found.done:
                    _remember(self._ledger, "up")
                    said = f"guests are fenced off from this host: {found.done}"
                    _tell(self._ledger, "LoopbackFenced", said)

    def _take(self, found: fence.Look) -> None:
        """Tell why it does not stand, once for each reason."""
        if found.why and found.why != self._why:
            said = f"{_REACH} what listens on this host: {found.why}"
            _tell(self._ledger, "LoopbackOpen", said)
        self._why = found.why


def _open(ledger: Ledger) -> None:
    """Only what agents of this state have put up is taken away: another agent's guests may rely on theirs."""
    if not ledger.reader.meta(FENCE_KEY):
        if fence.listed() is not None:
            _fenced(ledger, "another has put up the fence; nft delete table inet holdfast")
    elif (why := fence.take_away()) is not None:
        _fenced(ledger, why)
    else:
        _remember(ledger, "")
        said = f"{_REACH} what listens on this host: --loopback open was said, and the fence is taken away"
        _tell(ledger, "LoopbackOpen", said)


def _fenced(ledger: Ledger, why: str) -> None:
    said = f"{_REACH} no address of this host, although --loopback open was said: {why}"
    _tell(ledger, "LoopbackFenced", said)


def _remember(ledger: Ledger, what: str) -> None:
    with ledger.transaction() as change:
        change.put_meta(FENCE_KEY, what)


def _tell(ledger: Ledger, reason: str, message: str) -> None:
    with ledger.transaction() as change:
        change.event(Event(at=wall(), reason=reason, message=message))
