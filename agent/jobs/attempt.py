"""One attempt of a run, from its VM to its result: boot, log in, upload, begin, follow, collect.

Every part may be cut off at any line and taken up by another agent: what has been done is asked of the guest, which
alone knows whether the script has begun and how it ended. It decides nothing about retries (`agent.jobs.outcome` does),
and it leaves the VM to its lease: the next pass takes it away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from agent.errors import GuestRefused, HoldfastError, NotReady, RetryLater, SessionLost
from agent.hypervisor.api import Backend, Limits, Session
from agent.intent import Clock
from agent.jobs.clocks import Clocks
from agent.jobs.masking import with_lines
from agent.jobs.outcome import Ending, Fault, exited
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
AGAIN = 0.5
"""Seconds from a session that was lost to the next."""
DISK = 1.0
"""Seconds from one try to write the log to the next, where the host's disk is full."""
WATCH = 0.2
"""Seconds between looks at whether the VM lives and the clocks allow it to go on."""
LAST_WORDS = 5.0
"""Seconds that the last line of a log waits for room on the host's disk."""


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
        secrets: Mapping[str, str],
        resumed: bool = False,
    ) -> None:
        """`secrets` are values that the host gives, by the names of their variables. `progress` is told a sentence part
        now and then; `interruption` is looked at often, and may be filled in. `resumed`: another agent began the
        attempt."""
        self._run_id = run
        self._spec = spec
        self._instance = instance
        self._ledger = ledger
        self._backend = backend
        self._store = store
        self._clock = clock
        self._progress = progress
        self._interruption = interruption
        self._secrets = secrets
        self._log: Transcript | None = None
        self._clocks = Clocks(spec, clock().boottime, resumed=resumed)

    @property
    def _run(self) -> Run:
        run = self._ledger.run(self._run_id)
        assert run is not None  # noqa: S101 - a run under way is never removed
        return run

    async def see_through(self) -> Ending:
        """Return how the attempt ended. Raises nothing but bugs and cancellation."""
        secrets = [value for name, value in self._spec.env if name in self._spec.secrets]
        secrets = with_lines([*secrets, *self._secrets.values()])
        with ExitStack() as files:

            def opened() -> Transcript:
                return files.enter_context(
                    closing(Transcript(self._store.of(self._run_id).log, secrets))
                )

            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._work(opened))
                watch = group.create_task(self._watch())
                await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
                # Both may have ended: a script that did has a result, whatever else happened.
                ending = work.result() if work.done() else watch.result()
                work.cancel()
                watch.cancel()
            code = self._run.exit_code
            if code is not None and ending.exit_code is None:
                await self._ledger.free()
                self._note(f"the end of its output and artifacts may be missing: {ending.message}")
                ending = exited(code)
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._kept(lambda: self._log.ends(ending.message) if self._log else None)
            return ending

    # What ends it from outside

    async def _watch(self) -> Ending:
        while True:
            if (ending := self._over()) is not None:
                return ending
            await asyncio.sleep(WATCH)

    def _over(self) -> Ending | None:
        if self._interruption.fault is not None:
            fault, why = self._interruption.fault, self._interruption.why
            return Ending(fault.name.capitalize(), why, fault=fault)
        return self._lost() or self._clocks.over(self._run, self._clock().boottime)

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

    async def _work(self, opened: Callable[[], Transcript]) -> Ending:
        run = self._run
        self._log = log = await self._kept(opened)
        said = f"attempt {run.attempt} of run {run.number} begins"
        await self._kept(lambda: log.attempt_begins(run.attempt, said))
        while True:
            session: Session | None = None
            try:
                session = await self._enter(log)
                return await self._script(session, log)
            except SessionLost as error:
                self._progress(f"{error}; logging in again")
            except HoldfastError as error:
                if self._run.phase is not RunPhase.RUNNING:
                    return self._cut_off(type(error).__name__, str(error))
                # A guest that is short of something for a moment still runs its script: the clocks say how long.
                self._progress(f"{error}; logging in again")
            finally:
                if session is not None:
                    await session.close()
            await asyncio.sleep(AGAIN)

    async def _enter(self, log: Transcript) -> Session:
        """Log in, with the console in the log until that is done."""
        instance, user = self._instance, self._spec.image.ssh_user
        while True:
            await self._console(log)
            try:
                session = await self._backend.doorway.enter(
                    instance.uid, instance.name, instance.ssh_port or 0, user
                )
            except (NotReady, SessionLost):
                await asyncio.sleep(KNOCK)
            else:
                self._clocks.let_in()
                return session

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
        if first := run.phase is RunPhase.BOOTING:
            self._progress("uploading")
            env = {**dict(spec.env), **self._secrets}
            await session.upload(
                run.id, self._store.script(run, spec), env, self._store.files(run, spec)
            )
            await self._ledger.free()
            # From here on the script may have begun, whatever becomes of us. Read anew: it may have been cancelled.
            now = self._clock()
            self._clocks.heard(now.boottime)
            run = replace(
                self._run,
                phase=RunPhase.RUNNING,
                reason="Running",
                guest_boot=session.boot,
                started_at=now.wall,
            )
            self._put(run)
        if session.boot != run.guest_boot:
            return Ending("GuestRebooted", "its guest was rebooted", fault=Fault.CUT_OFF)
        await self._console(log)
        try:
            await session.begin(run.id)
        except GuestRefused as error:
            if (await session.look(run.id, 0, 0)).begun:
                raise
            if not first:
                lost = "its guest knows nothing of its script any more"
                return Ending("ScriptLost", lost, fault=Fault.CUT_OFF)
            await self._ledger.free()
            self._put(replace(self._run, started_at=None))
            return Ending("GuestRefused", str(error), fault=Fault.MACHINERY)
        await self._kept(lambda: log.script_begins("the script begins"))
        self._clocks.heard(self._clock().boottime)
        ending = await self._follow(session, log)
        if ending.exit_code is not None:
            await self._collect(session)
        return ending

    async def _follow(self, session: Session, log: Transcript) -> Ending:
        """Bring the output over until the script has ended."""
        pause, seen = SOON, -1
        while True:
            look = await session.look(self._run_id, log.offset, log.wanted)
            now = self._clock().boottime
            if look.exit_code is not None and self._run.exit_code is None:
                # Whatever is lost from here on, this is how it ended.
                await self._ledger.free()
                self._clocks.ended(now)
                self._put(replace(self._run, exit_code=look.exit_code))
            self._clocks.seen(now)
            whole = await self._kept(lambda look=look, now=now: log.output(look, now))  # type: ignore[misc]
            log.tick(now)
            if look.size != seen or look.data:
                seen, pause = look.size, SOON
                self._clocks.heard(now)
                self._progress(f"{look.size} bytes of output")
            if look.exit_code is not None and whole:
                return exited(look.exit_code)
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
            await self._ledger.free()
            self._note(f"artifacts may be missing: {error}")
            return
        await self._ledger.free()
        run = self._run
        self._put(replace(run, artifacts=found.artifacts, notes=_with(run.notes, *found.notes)))

    # Records

    def _put(self, run: Run) -> None:
        with self._ledger.transaction() as change:
            change.put_run(run)
        self._store.record(run)

    def _note(self, said: str) -> None:
        self._put(replace(self._run, notes=_with(self._run.notes, said)))

    async def _kept(self, write: Callable[[], T]) -> T:
        """What `write` returns, once the host's disk takes it: a full one stops no script."""
        while True:
            try:
                return write()
            except RetryLater as error:
                self._progress(str(error))
                await asyncio.sleep(DISK)


def _with(notes: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """The notes and more of them, each once: what was cut off is done again."""
    return tuple(dict.fromkeys((*notes, *more)))
