"""What people ask of jobs: to run one again, and to end a run. Each is recorded, and the loop does it.

It writes the ledger, so it belongs to the process that holds the state directory: the agent, or a command where there
is none. It does not know how it was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from agent.doing import Doing
from agent.errors import BadInput, Blocked
from agent.intent import Clock
from agent.jobs.store import RunStore, rerun
from agent.worker import Worker
from state.desired import Desired
from state.history import Event
from state.ids import Name, run_id
from state.ledger import Ledger
from state.runs import Run

BY_HAND = "it was cancelled by hand"
_KNOCK = 0.05
"""Seconds between looks at whether a step of the name has ended."""
_LOOKS = 200
"""So often: what a step still does after its run has ended takes a VM away."""


class Requests:
    """The requests to one state directory."""

    def __init__(  # noqa: PLR0913 - what the agent's parts share
        self,
        ledger: Ledger,
        store: RunStore,
        clock: Clock,
        state_id: str,
        *,
        doing: Doing | None = None,
        wake: Callable[[str], None] = lambda _: None,
        desired: Callable[[], Desired | None] = lambda: None,
    ) -> None:
        """`wake` tells the loop why to look; `desired` is what the last pass found wanted, None where nothing is known
        of that."""
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._state_id = state_id
        self._doing = doing or Doing()
        self._wake = wake
        self._desired = desired

    async def cancel(self, name: Name) -> Run:
        """Want the end of the job's run that has not ended; that run. Raises BadInput where the job never ran, Blocked
        where all its runs have ended."""
        await self._ledger.free()
        latest = self._runs(name)[-1]
        if latest.phase.ended:
            raise Blocked(
                f"{name} has no run to cancel: run {latest.number} has ended ({latest.phase.value})"
            )
        if not latest.cancel:
            latest = replace(latest, cancel=BY_HAND)
            self._record(latest, "CancelAsked", f"run {latest.number} is to be cancelled")
        return latest

    async def rerun(self, name: Name) -> Run:
        """Queue a new run of what the job's document says and ran before; that run. Raises BadInput where the job never
        ran, Blocked where that cannot be now."""
        old = self._repeatable(name)
        await self._idle(name)
        # No pass gives a name's next number away while the name is busy.
        self._doing.names[name] = "asked to be run again"
        try:
            old = self._repeatable(name)
            number = self._runs(name)[-1].number + 1
            new = rerun(old, run_id(self._state_id, name, number), number, self._clock().wall)
            await self._put_down(old, new)
            await self._ledger.free()
            self._record(new, "Queued", f"run {number}, as run {old.number} was")
        finally:
            del self._doing.names[name]
            self._wake(f"{name}: it was asked to be run again")
        return new

    async def _idle(self, name: Name) -> None:
        for _ in range(_LOOKS):
            if name not in self._doing.names:
                return
            await asyncio.sleep(_KNOCK)
        raise Blocked(
            f"{name} cannot be run again now: {self._doing.names.get(name, 'it is busy')}",
            hint="try again later",
        )

    def _runs(self, name: Name) -> list[Run]:
        found = [run for run in self._ledger.runs() if run.name == name]
        if not found:
            raise BadInput(
                f"there is no run of a job `{name}` here",
                hint="a job runs by itself once its document is committed",
            )
        return found

    def _repeatable(self, name: Name) -> Run:
        """The run whose spec is to be run again: the last one of what the document says, as far as that is known."""
        runs = self._runs(name)
        latest = runs[-1]
        if not latest.phase.ended:
            raise Blocked(
                f"{name} cannot be run again now: its run {latest.number} is {latest.phase.value}",
                hint=f"wait for its end, or say `holdfast job cancel {name}` first",
            )
        desired = self._desired()
        if desired is None or desired.unproven or any(one.name == name for one in desired.problems):
            return latest
        if (wanted := desired.jobs.get(name)) is None:
            raise Blocked(
                f"{name} cannot be run again: no document names it any more",
                hint="commit its document again first",
            )
        same = [run for run in runs if run.spec_digest == wanted.spec.digest]
        if not same:
            raise Blocked(
                f"{name} cannot be run again: its document has changed, and is run by itself"
            )
        return same[-1]

    async def _put_down(self, old: Run, new: Run) -> None:
        """The files of the new run, from a thread: they may be large."""
        worker = Worker("files of a run")
        try:
            await worker.submit(lambda: self._store.again(old, new))
        except OSError as error:
            raise Blocked(
                f"{new.name} cannot be run again: a file of its run {old.number} cannot be copied:"
                f" {error.strerror}",
                hint="change its document, and it is run anew",
            ) from error
        finally:
            worker.leave()

    def _record(self, run: Run, word: str, said: str) -> None:
        now = self._clock().wall
        with self._ledger.transaction() as change:
            change.put_run(run)
            change.event(Event(at=now, reason=word, message=said, name=run.name, kind="job"))
        self._store.record(run)
        self._wake(f"{run.name}: {said}")
