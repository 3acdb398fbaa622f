"""Whether guests reach the host itself, as `--loopback` says: the fence around them, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.compose import wall
from agent.host import run_as_range
from agent.hypervisor.qemu import fence
from state.history import Event
from state.records import FENCE_KEY

if TYPE_CHECKING:
    from agent.config import Settings
    from state.ledger import Ledger


def begin(ledger: Ledger, settings: Settings) -> None:
    """Put the fence up or take it away, and tell why that cannot be."""
    if settings.hypervisor == "memory":
        return
    if settings.loopback == "open":
        _open(ledger)
    elif (why := fence.put_up(run_as_range())) is not None:
        _tell(ledger, "LoopbackOpen", f"{_REACH} what listens on this host: {why}")
    else:
        _remember(ledger, "up")


_REACH = "guests with egress reach"


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
