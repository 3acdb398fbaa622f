"""What becomes of a run when an attempt has ended: its result, or another attempt. Pure: the one place that knows whose
fault is whose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, assert_never

from agent import backoff
from state.clock import Moment
from state.runs import Run, RunPhase, Spent
from state.spec.resolved_job import JobSpec


class Fault(StrEnum):
    """How an attempt ended other than by the script's own end."""

    MACHINERY = "machinery"
    """QEMU, the boot, the login or the upload failed, before the script began."""
    REFUSED = "refused"
    """The host does not give it what it asks for: it is not tried again until a person wants that."""
    CUT_OFF = "cut off"
    """The VM or the way to it was lost after the script may have begun."""
    SILENT = "silent"
    OVERDUE = "overdue"
    CANCELLED = "cancelled"
    DRAINED = "drained"
    """The agent had to leave."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: with the exit code that the guest wrote, or by a fault. `reason` is a word for programs,
    `message` a sentence part for people."""

    reason: str
    message: str
    exit_code: int | None = None
    fault: Fault | None = None


def exited(code: int) -> Ending:
    """The end of a script by itself."""
    if code == 0:
        return Ending("Succeeded", "exit code 0", exit_code=0)
    return Ending("ScriptFailed", f"exit code {code}", exit_code=code)


def after(run: Run, spec: JobSpec, ending: Ending, now: Moment) -> Run:
    """The run as it is to be recorded after an attempt ended so."""
    phase, spent = _judged(run, spec, ending)
    if phase is RunPhase.CANCELLED and run.cancel:
        # Whatever cut it short in the end, this is why.
        ending = Ending("Cancelled", run.cancel, fault=Fault.CANCELLED)
    if phase is RunPhase.QUEUED:
        wait = 0.0
        if ending.fault is not Fault.DRAINED:
            tries = spent.infrastructure + spent.interrupted + spent.script
            wait = backoff.delay(f"run/{run.id}", tries)
        return replace(
            run,
            phase=phase,
            reason="Retrying",
            message=f"attempt {run.attempt}: {ending.message}",
            spent=spent,
            uid=None,
            guest_boot="",
            started_at=None,
            exit_code=None,
            artifacts=(),
            notes=(),
            boot_id=now.boot_id,
            not_before=now.boottime + wait,
        )
    keeps = phase is not RunPhase.SUCCEEDED and ending.fault is not Fault.DRAINED
    keeps = keeps and phase is not RunPhase.CANCELLED and run.uid is not None
    keeps = keeps and spec.keep_on_failure > 0
    return replace(
        run,
        phase=phase,
        reason=ending.reason,
        message=ending.message,
        exit_code=ending.exit_code,
        ended_at=now.wall,
        kept_until=now.wall + spec.keep_on_failure if keeps else None,
        boot_id=now.boot_id,
        not_before=now.boottime + spec.keep_on_failure,
    )


def _judged(run: Run, spec: JobSpec, ending: Ending) -> tuple[RunPhase, Spent]:
    """The phase that the run goes to, and the retries that it has then used."""
    if run.cancel and ending.fault is not None:
        return RunPhase.CANCELLED, run.spent
    match ending.fault:
        case None if ending.exit_code == 0:
            return RunPhase.SUCCEEDED, run.spent
        case None:
            return _retried(run, spec, "script", RunPhase.FAILED)
        case Fault.MACHINERY:
            return _retried(run, spec, "infrastructure", RunPhase.ERROR)
        case Fault.REFUSED:
            return RunPhase.ERROR, run.spent
        case Fault.DRAINED if run.phase is not RunPhase.RUNNING:
            return RunPhase.QUEUED, run.spent
        case Fault.CUT_OFF | Fault.DRAINED:
            return _retried(run, spec, "interrupted", RunPhase.INTERRUPTED)
        case Fault.SILENT | Fault.OVERDUE:
            return RunPhase.TIMEOUT, run.spent
        case Fault.CANCELLED:
            return RunPhase.CANCELLED, run.spent
    assert_never(ending.fault)


def _retried(
    run: Run,
    spec: JobSpec,
    whose: Literal["script", "infrastructure", "interrupted"],
    at_last: RunPhase,
) -> tuple[RunPhase, Spent]:
    """Another attempt where the document allows one more, else the end."""
    used = getattr(run.spent, whose)
    if used < getattr(spec.retries, whose):
        return RunPhase.QUEUED, replace(run.spent, **{whose: used + 1})
    return at_last, run.spent
