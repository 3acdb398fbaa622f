"""One attempt of a run, from its VM to its result: boot, log in, upload, begin, follow, collect.

Every part may be cut off at any line and taken up by another agent: what has been done is asked of the guest, which
alone knows whether the script has begun and how it ended. It decides nothing about retries (`agent.jobs.outcome` does),
and it leaves the VM to its lease: the next pass takes it away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from agent.errors import HoldfastError, NotReady, RetryLater, SessionLost
from agent.hypervisor.api import Backend, Limits, Session
from agent.intent import Clock
from agent.jobs.outcome import Ending, Fault
from agent.jobs.progress import Stage
from agent.jobs.store import RunStore
from agent.jobs.transcript import Transcript
from state.ids import RunId
from state.ledger import Ledger
from state.observed import Instance, RunState
from state.runs import Run, RunPhase
from state.spec.resolved_job import JobSpec

T = TypeVar("T")

KNOCK = 0.05
"""Seconds from one refused login to the next."""
SOON, SELDOM = 0.05, 0.5
"""Seconds between looks at the script's output: while it comes, and at most."""
PIECE = 1 << 18
"""Bytes of the console that are read at once."""
DISK = 1.0
"""Seconds from one try to write the log to the next, where the host's disk is full."""
WATCH = 0.2
"""Seconds between looks at whether the VM lives and the clocks allow it to go on."""


@dataclass(slots=True)
class Interruption:
    """Why an attempt is to end before its script does; None while it may go on."""

    fault: Fault | None = None
    why: str = ""


class Attempted:
    """One attempt that this agent sees to its end."""

    def __init__(  # noqa: PLR0913 - what an attempt is made of
        self,
        run: RunId,
        spec: JobSpec,
        instance: Instance,
        *,
        ledger: Ledger,
        backend: Backend,
        store: RunStore,
        clock: Clock,
        progress: Callable[[str], None],
        interruption: Interruption,
    ) -> None:
        """`progress` is told a sentence part now and then; `interruption` is looked at often, and may be filled in."""
        self._run_id = run
        self._spec = spec
        self._instance = instance
        self._ledger = ledger
        self._backend = backend
        self._store = store
        self._clock = clock
        self._progress = progress
        self._interruption = interruption
        self._heard = clock().boottime
        self._exit_code: int | None = None

    @property
    def _run(self) -> Run:
        run = self._ledger.run(self._run_id)
        assert run is not None  # noqa: S101 - a run under way is never removed
        return run

    async def see_through(self) -> Ending:
        """Return how the attempt ended. Raises nothing but bugs and cancellation."""
        run = self._run
        secrets = [value for name, value in self._spec.env if name in self._spec.secrets]
        with closing(Transcript(self._store.of(run.id).log, secrets)) as log:
            await self._kept(
                lambda: log.attempt_begins(
                    run.attempt, f"attempt {run.attempt} of run {run.number} begins"
                )
            )
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._work(log))
                watch = group.create_task(self._watch())
                await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
                # Both may have ended: a script that did has a result, whatever else happened.
                ending = work.result() if work.done() else watch.result()
                work.cancel()
                watch.cancel()
            if self._exit_code is not None and ending.exit_code is None:
                self._note(f"artifacts may be missing: {ending.message}")
                ending = _exited(self._exit_code)
            await self._kept(lambda: log.ends(ending.message))
            return ending

    # What ends it from outside

    async def _watch(self) -> Ending:
        while True:
            if (ending := self._over()) is not None:
                return ending
            await asyncio.sleep(WATCH)

    def _over(self) -> Ending | None:
        run, spec, now = self._run, self._spec, self._clock()
        if self._interruption.fault is not None:
            fault, why = self._interruption.fault, self._interruption.why
            return Ending(fault.name.capitalize(), why, fault=fault)
        if (lost := self._lost()) is not None:
            return lost
        if self._exit_code is not None:
            return None  # its result is known; what is left has deadlines of its own
        if now.boottime - run.attempt_began > spec.total:
            return Ending(
                "TotalTimeout", f"it took longer than {spec.total:g} s in all", fault=Fault.OVERDUE
            )
        if run.phase is RunPhase.BOOTING:
            if now.boottime - run.attempt_began > spec.boot:
                return Ending(
                    "BootTimeout", f"no login within {spec.boot:g} s", fault=Fault.MACHINERY
                )
        elif now.boottime - self._heard > spec.silence:
            return Ending("Silence", f"no output for {spec.silence:g} s", fault=Fault.SILENT)
        return None

    def _lost(self) -> Ending | None:
        """The end of the attempt's VM, if it has come to that."""
        hypervisor, instance = self._backend.hypervisor, self._instance
        if instance.process is None or not hypervisor.alive(instance.uid, instance.process):
            exit_ = hypervisor.exit_of(instance.uid)
            return self._cut_off("VmLost", f"its VM ended: {exit_.text if exit_ else 'unseen'}")
        match hypervisor.view(instance.uid).state:
            case RunState.OFF:
                return self._cut_off("GuestPoweredOff", "its guest powered itself off")
            case RunState.PANICKED:
                return self._cut_off("GuestPanicked", "its guest's kernel panicked")
            case RunState.IO_ERROR:
                return self._cut_off("IOError", "the host could not write to its disk")
            case _:
                return None

    def _cut_off(self, reason: str, message: str) -> Ending:
        """The fault of what was lost: only once the script may have begun is it cut off."""
        begun = self._run.phase is RunPhase.RUNNING
        return Ending(reason, message, fault=Fault.CUT_OFF if begun else Fault.MACHINERY)

    # What brings it forward

    async def _work(self, log: Transcript) -> Ending:
        while True:
            try:
                session = await self._enter(log)
            except HoldfastError as error:
                return self._cut_off(type(error).__name__, str(error))
            try:
                return await self._script(session, log)
            except SessionLost as error:
                self._progress(f"{error}; logging in again")
            except HoldfastError as error:
                return self._cut_off(type(error).__name__, str(error))
            finally:
                await session.close()
            await asyncio.sleep(KNOCK)

    async def _enter(self, log: Transcript) -> Session:
        """Log in, with the console in the log until that is done."""
        instance, user = self._instance, self._spec.image.ssh_user
        while True:
            await self._console(log)
            try:
                return await self._backend.doorway.enter(
                    instance.uid, instance.name, instance.ssh_port or 0, user
                )
            except (NotReady, SessionLost):
                await asyncio.sleep(KNOCK)

    async def _console(self, log: Transcript) -> None:
        """What the guest has said on its serial line, up to now."""
        if log.stage is not Stage.CONSOLE:
            return
        while True:
            data = self._store.console(self._instance.uid, log.offset, PIECE)
            if data is None:
                await self._kept(lambda: log.console_cut("the console's log was cut here"))
                continue
            now = self._clock().boottime
            await self._kept(lambda data=data, now=now: log.console(data, now))  # type: ignore[misc]
            log.tick(now)
            if len(data) < PIECE:
                return

    async def _script(self, session: Session, log: Transcript) -> Ending:
        run, spec = self._run, self._spec
        if run.phase is RunPhase.BOOTING:
            self._progress("uploading")
            await session.upload(
                run.id, self._store.script(run, spec), dict(spec.env), self._store.files(run, spec)
            )
            # From here on the script may have begun, whatever becomes of us. Read anew: it may have been cancelled.
            run = replace(
                self._run,
                phase=RunPhase.RUNNING,
                reason="Running",
                guest_boot=session.boot,
                started_at=self._clock().wall,
            )
            self._put(run)
        if session.boot != run.guest_boot:
            return Ending("GuestRebooted", "its guest was rebooted", fault=Fault.CUT_OFF)
        await self._console(log)
        await self._kept(lambda: log.script_begins("the script begins"))
        await session.begin(run.id)
        self._heard = self._clock().boottime
        ending = await self._follow(session, log)
        if ending.exit_code is not None:
            self._exit_code = ending.exit_code
            await self._collect(session)
        return ending

    async def _follow(self, session: Session, log: Transcript) -> Ending:
        """Bring the output over until the script has ended."""
        pause, seen = SOON, -1
        while True:
            look = await session.look(self._run_id, log.offset, log.wanted)
            now = self._clock().boottime
            whole = await self._kept(lambda look=look, now=now: log.output(look, now))  # type: ignore[misc]
            log.tick(now)
            if look.size != seen:
                seen, self._heard, pause = look.size, now, SOON
                self._progress(f"{look.size} bytes of output")
            if look.exit_code is not None and whole:
                return _exited(look.exit_code)
            if look.exit_code is None and not look.alive:
                return Ending("ScriptLost", "its script was killed", fault=Fault.CUT_OFF)
            if not look.data:
                await asyncio.sleep(pause)
                pause = min(2 * pause, SELDOM)

    async def _collect(self, session: Session) -> None:
        """Bring the artifacts over; what cannot be had is a note, since the result is known."""
        if not self._spec.artifacts:
            return
        self._progress("collecting artifacts")
        into = self._store.of(self._run_id).artifacts
        try:
            found = await session.collect(self._run_id, self._spec.artifacts, into, Limits())
        except (HoldfastError, OSError) as error:
            self._note(f"artifacts may be missing: {error}")
            return
        self._put(
            replace(self._run, artifacts=found.artifacts, notes=(*self._run.notes, *found.notes))
        )

    # Records

    def _put(self, run: Run) -> None:
        with self._ledger.transaction() as change:
            change.put_run(run)
        self._store.record(run)

    def _note(self, said: str) -> None:
        self._put(replace(self._run, notes=(*self._run.notes, said)))

    async def _kept(self, write: Callable[[], T]) -> T:
        """What `write` returns, once the host's disk takes it: a full one stops no script."""
        while True:
            try:
                return write()
            except RetryLater as error:
                self._progress(str(error))
                await asyncio.sleep(DISK)


def _exited(code: int) -> Ending:
    if code == 0:
        return Ending("Succeeded", "exit code 0", exit_code=0)
    return Ending("ScriptFailed", f"exit code {code}", exit_code=code)
