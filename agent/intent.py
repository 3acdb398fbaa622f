"""A step's row in the ledger, from the intent to the outcome, with the events that tell of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent import backoff
from agent.errors import HoldfastError
from agent.planned import ACTING
from agent.steps import (
    Attempt,
    CancelRun,
    Clear,
    Create,
    Destroy,
    Enqueue,
    Replace,
    Resume,
    Step,
    target,
)
from state.clock import Moment
from state.history import Event, StepRecord
from state.ids import Name, Uid
from state.ledger import Ledger
from state.observed import step_key
from state.transaction import Transaction

Clock = Callable[[], Moment]


class Intent:
    """One step under way. `begin` and `done` are transactions that carry the changes which belong to them."""

    def __init__(self, ledger: Ledger, step: Step, pass_id: str, clock: Clock) -> None:
        self._ledger = ledger
        self._step = step
        self._pass_id = pass_id
        self._clock = clock
        self._id: int | None = None
        self._uid, self._generation = _about(step)

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """Write the intent, before anything is done."""
        with self._ledger.transaction() as change:
            begun = self._begun(change)
            yield change
        self._id = begun

    def write(self) -> None:
        """Write the intent alone."""
        with self.begin():
            pass

    @contextmanager
    def done(self, reason: str, message: str) -> Iterator[Transaction]:
        """Write the outcome and tell of it; a step that wrote no intent, since nothing of it is lost with its agent,
        is begun here too."""
        with self._ledger.transaction() as change:
            yield change
            self._end(change, "done")
            # With a new instance, or none, whatever failed of the one before is over.
            anew = isinstance(self._step, Create | Replace | Destroy)
            for action in ACTING if anew else (self._step.action,):
                change.remove_retry(step_key(self._step.name, action))
            change.event(self.event(reason, message, self._uid))

    def failed(self, error: HoldfastError) -> None:
        """Write that it failed, and when it may be tried again."""
        now = self._clock()
        key = step_key(self._step.name, self._step.action)
        with self._ledger.transaction() as change:
            self._end(change, "failed", str(error))
            retry = self._ledger.retry(key)
            change.put_retry(backoff.failed(retry, str(error), now, target(self._step)))
            change.event(self.event(_failure(self._step), str(error), self._uid))

    def event(self, reason: str, message: str, uid: Uid | None) -> Event:
        """An event of this step."""
        return Event(
            at=self._clock().wall,
            reason=reason,
            message=message,
            name=self._step.name,
            uid=uid,
            kind=self._step.kind,
            pass_id=self._pass_id,
        )

    def _begun(self, change: Transaction) -> int:
        return change.begin_step(
            StepRecord(
                id=0,
                pass_id=self._pass_id,
                action=self._step.action,
                kind=self._step.kind,
                name=self._step.name,
                because=self._step.because,
                begun_at=self._clock().wall,
                uid=self._uid,
                generation=self._generation,
            )
        )

    def _end(self, change: Transaction, outcome: str, error: str | None = None) -> None:
        begun = self._begun(change) if self._id is None else self._id
        change.end_step(begun, at=self._clock().wall, outcome=outcome, error=error)


def event(now: Moment, pass_id: str, reason: str, message: str) -> Event:
    """An event that is about no name."""
    return Event(at=now.wall, reason=reason, message=message, pass_id=pass_id)


def bug(now: Moment, pass_id: str, doing: str, error: Exception, name: Name | None = None) -> Event:
    """The event that `doing` something met a bug of ours, with where that is."""
    said = f"{doing} met a bug of holdfast: {''.join(traceback.format_exception(error))}"
    return Event(at=now.wall, reason="Bug", message=said, name=name, pass_id=pass_id)


def _failure(step: Step) -> str:
    """The word for a step that failed. `RunFailed` is said of a script, so steps of jobs have words of their own."""
    match step:
        case Enqueue():
            return "QueueFailed"
        case Attempt():
            return "AttemptFailed"
        case Resume():
            return "ResumeFailed"
        case CancelRun():
            return "CancelFailed"
        case _:
            return f"{step.action.capitalize()}Failed"


def _about(step: Step) -> tuple[Uid | None, int | None]:
    match step:
        case Create() | Replace():
            return step.birth.uid, step.birth.generation
        case Destroy() | Clear():
            return (step.uids[-1] if step.uids else None), None
        case _:
            return getattr(step, "uid", None), None
