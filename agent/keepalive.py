"""What one existing instance needs so that it is as its spec says: nothing, a restart, a change of power, an update.

Pure, and never a replacement: by the time this is asked, the instance's spec differs in live fields at most.
"""

from __future__ import annotations

from typing import assert_never

from agent import backoff
from agent.leases import forwards_of
from agent.live import Question, at_its_size, live_changes
from agent.steps import Adopt, Crash, Keep, Power, Restart, Step, Unblock, Update, Wait
from state.ids import TICKS_PER_SECOND
from state.lifecycle import Cause, Phase
from state.observed import Instance, RunState, Verdict
from state.spec.resolved import VmSpec

_FAULTS = frozenset({Cause.EXIT, Cause.PANIC})
ROOM_TO_WRITE = 32 << 20
"""Bytes that are free on the host's disk before a guest is let go on that found none."""
LOOK_FOR_ROOM = 5.0
"""Seconds from one look at that to the next."""
ASKED_IN_VAIN = 10.0
"""Seconds that a new agent asks a guest before it says that it does not answer in time."""
REBOOT_LOOP = 3
"""Resets in a row from which a guest that is not ready is said to go round in circles."""
_LET_GO = frozenset({Phase.STARTING, Phase.RUNNING})
"""Phases of a process that is to live on."""


def answer(question: Question) -> Step:
    """The step for an instance that has run before."""
    seen = question.seen
    match seen.verdict:
        case Verdict.ALIVE:
            return _alive(question)
        case Verdict.GONE:
            return _gone(question)
        case Verdict.UNKNOWN:
            return _keep(question, "Unknown", "its process cannot be looked at just now")
    assert_never(seen.verdict)


def _gone(question: Question) -> Step:
    seen, spec = question.seen, question.spec
    instance = seen.instance
    match instance.phase:
        case Phase.RUNNING | Phase.STARTING:
            if instance.process and instance.process.boot_id != question.now.boot_id:
                if spec.power == "stopped":
                    return _power(question, "stopped", Cause.POWER)
                return _restart(question, Cause.REBOOT, "the host was rebooted")
            how = seen.exit.text if seen.exit else "nobody saw how"
            return _ended(question, Cause.EXIT, f"its process ended: {how}")
        case Phase.CRASHED if instance.cause is Cause.REBOOT and spec.power != "stopped":
            return _restart(question, Cause.REBOOT, "the host was rebooted")
        case Phase.CRASHED:
            return _ended(question, instance.cause, instance.detail or "its process ended")
        case Phase.STOPPING:
            return _cut_off(question)
        case Phase.STOPPED:
            return _stopped(question)
        case Phase.PENDING:
            raise AssertionError("an instance that never ran is created, not kept")
    assert_never(instance.phase)


def _cut_off(question: Question) -> Step:
    """Its stop was begun and not recorded as done. A guest that went down by itself is left down as `restart` says."""
    spec, instance = question.spec, question.seen.instance
    if spec.power == "stopped":
        return _power(question, "stopped", Cause.POWER)
    off = instance.cause is Cause.GUEST_OFF and spec.restart != "always"
    if off or (instance.cause is Cause.PANIC and spec.restart == "never"):
        return _power(question, "stopped", instance.cause, instance.detail)
    return _restart(question, Cause.POWER, "a stop of it was cut off")


def _ended(question: Question, cause: Cause, why: str) -> Step:
    spec, phase = question.spec, question.seen.instance.phase
    if spec.power == "stopped":
        return _power(question, "stopped", Cause.POWER)
    if spec.restart == "never":
        if phase is Phase.CRASHED:
            return _stays_down(question, "Crashed", f"{why}; restart is never")
        return Crash(
            name=spec.name,
            because=why,
            source=question.source,
            uid=question.seen.instance.uid,
            cause=cause,
        )
    return _restart(question, cause, why)


def _stopped(question: Question) -> Step:
    spec, instance = question.spec, question.seen.instance
    if spec.power == "stopped":
        if instance.cause is not Cause.POWER:
            # It was down already; that it shall be is what lets it be started again.
            return _power(question, "stopped", Cause.POWER)
        return _stays_down(question, "Stopped", "power is stopped")
    match instance.cause:
        case Cause.GUEST_OFF if spec.restart != "always":
            why = f"the guest powered itself off; restart is {spec.restart}"
            return _stays_down(question, "GuestPoweredOff", why)
        case Cause.PANIC if spec.restart == "never":
            why = "the guest's kernel panicked; restart is never"
            return _stays_down(question, "Panicked", why)
        case Cause.POWER | Cause.NONE:
            return _restart(question, Cause.POWER, f"power is {spec.power}")
        case cause:
            return _restart(question, cause, f"restart is {spec.restart}")


def _stays_down(question: Question, reason: str, why: str) -> Step:
    return live_changes(question) or _keep(question, reason, why)


def _alive(question: Question) -> Step:
    seen, spec = question.seen, question.spec
    instance, view = seen.instance, seen.view
    if not seen.attached:
        return _alive_unattached(question)
    if spec.power == "stopped":
        # Whatever its monitor or its ports say: a stop needs neither.
        return _power(question, "stopped", Cause.POWER)
    if not view.responsive:
        return _keep(question, "Unresponsive", f"its monitor does not answer: {view.detail}")
    if view.state is None:
        return _keep(question, "Connecting", "its monitor was not heard yet")
    if instance.phase not in _LET_GO:
        return _cut_off(question)
    if (step := live_changes(question)) is not None:
        return step
    step = _run_state(question, view.state)
    if isinstance(step, Keep) and not _follows(instance, spec):
        # The machine already is as the document now says, for instance paused by a step that was cut off.
        return Update(
            name=spec.name,
            because=f"power is {spec.power}",
            fields=("power",),
            source=question.source,
            uid=instance.uid,
            spec=spec,
        )
    return step


def _alive_unattached(question: Question) -> Step:
    """A running instance of another agent: adopted, unless its document changed meanwhile; doing that adopts it too.
    Nothing but being adopted helps one whose stop was cut off, or whose new ports are taken."""
    instance, spec = question.seen.instance, question.spec
    if instance.phase in _LET_GO and not _follows(instance, spec):
        step = None if spec.power == "stopped" else live_changes(question)
        if step is None:
            return _power(question, spec.power, Cause.POWER)
        if step.acts:
            return step
    pid = instance.process.pid if instance.process else 0
    return Adopt(
        name=spec.name,
        because=f"it runs as pid {pid}",
        source=question.source,
        uid=instance.uid,
    )


def _follows(instance: Instance, spec: VmSpec) -> bool:
    """Whether the instance is recorded with this spec, be it in the words of an earlier version."""
    return instance.spec_digest == spec.digest or instance.vm_spec == spec


def _run_state(question: Question, state: RunState) -> Step:
    spec = question.spec
    match state:
        case RunState.RUNNING | RunState.PAUSED | RunState.INERT:
            return _powered(question, state)
        case RunState.OFF:
            why = f"the guest powered itself off; restart is {spec.restart}"
            if spec.restart == "always":
                return _restart(question, Cause.GUEST_OFF, why)
            return _power(question, "stopped", Cause.GUEST_OFF, why)
        case RunState.PANICKED:
            why = f"the guest's kernel panicked; restart is {spec.restart}"
            if spec.restart == "never":
                return _power(question, "stopped", Cause.PANIC, why)
            return _restart(question, Cause.PANIC, why)
        case RunState.IO_ERROR:
            return _blocked(question)
        case RunState.OTHER:
            return _keep(question, "OtherState", f"it says of itself: {question.seen.view.detail}")
    assert_never(state)


def _blocked(question: Question) -> Step:
    """Its last write is done again once there is room for more than that; until then it stands still."""
    said = question.seen.view.detail or "the host could not write to its disk"
    free = question.free_disk
    if question.spec.power != "running":
        return _keep(question, "IOError", said)
    if free is not None and free < ROOM_TO_WRITE:
        return Wait(
            name=question.spec.name,
            because=f"{said}; it goes on when there is room",
            reason="IOError",
            source=question.source,
            until=LOOK_FOR_ROOM,
        )
    return Unblock(
        name=question.spec.name,
        because=f"{said}; there is room again",
        source=question.source,
        uid=question.seen.instance.uid,
    )


def _powered(question: Question, state: RunState) -> Step:
    spec = question.spec
    at = "running" if state is RunState.RUNNING else "paused"
    if spec.power != at:
        return _power(question, spec.power, Cause.POWER)
    if question.seen.instance.phase is Phase.STARTING:
        # Its agent died between letting it go and recording that; saying it again changes nothing but the record.
        return _power(question, spec.power, Cause.POWER, "its start was cut off")
    if spec.power == "paused":
        return _keep(question, "Paused", "power is paused")
    return _running(question)


def _running(question: Question) -> Step:
    step = _answering(question)
    if remark := question.seen.view.remark:
        return _keep(question, "FilesLost", f"{remark}; {step.because}")
    return step


def _answering(question: Question) -> Step:
    instance, spec, health = question.seen.instance, question.spec, question.spec.health
    if health is None and not spec.image.nocloud:
        return _keep(question, "Running", "it runs; its image takes no key, so nobody can ask it")
    if instance.ready_at is not None:
        said = "it answers over SSH" if health is None else f"it passes its health check ({health})"
        return _keep(question, "Ready", said)
    return _not_ready(question)


def _not_ready(question: Question) -> Step:
    instance, spec, health = question.seen.instance, question.spec, question.spec.health
    resets = question.seen.view.in_a_row
    if resets >= REBOOT_LOOP:
        said = f"its guest has reset itself {resets} times in a row and is not ready"
        return _keep(question, "RebootLoop", said)
    if instance.unhealthy:
        return _keep(question, "Unhealthy", f"its health check fails: {instance.unhealthy}")
    ticks = instance.process.start_ticks if instance.process else 0
    waited = question.now.boottime - ticks / TICKS_PER_SECOND
    if health is not None:
        return _keep(question, "Booting", f"it has not passed its health check yet ({health})")
    # Of one that booted long ago, as where the ledger was lost, it is only not known yet.
    asked = question.now.boottime - question.began
    if waited > spec.image.boot_timeout and asked > ASKED_IN_VAIN:
        return _keep(question, "BootTimeout", f"no SSH within {spec.image.boot_timeout:g} s")
    return _keep(question, "Booting", "it does not answer over SSH yet")


def _restart(question: Question, cause: Cause, why: str) -> Step:
    seen, spec = question.seen, question.spec
    fault = cause in _FAULTS
    if fault and (left := backoff.remaining(question.retry, question.now)) > 0:
        return Wait(
            name=spec.name,
            because=f"{question.failed or why}; {backoff.tried(question.retry, 'restarted')} in a row",
            reason="BackOff",
            source=question.source,
            until=left,
        )
    forwards = forwards_of(spec, seen.instance.ssh_port)
    if clash := question.leases.conflict(spec.name, forwards, [seen]):
        return Wait(name=spec.name, because=clash, reason="PortTaken", source=question.source)
    return Restart(
        name=spec.name,
        because=why,
        source=question.source,
        uid=seen.instance.uid,
        spec=at_its_size(spec, seen.instance),
        accelerator=question.accelerator,
        cause=cause,
        grace=_grace(question),
        fault=fault,
    )


def _power(question: Question, to: str, cause: Cause, why: str | None = None) -> Power:
    spec = question.spec
    return Power(
        name=spec.name,
        because=why or f"power is {to}",
        fields=("power",),
        source=question.source,
        uid=question.seen.instance.uid,
        spec=at_its_size(spec, question.seen.instance),
        to=to,
        cause=cause,
        grace=_grace(question),
    )


def _grace(question: Question) -> float:
    """Seconds for the guest to end by itself: none for one that certainly cannot."""
    seen = question.seen
    over = (RunState.INERT, RunState.OFF, RunState.PANICKED)
    if seen.verdict is Verdict.GONE or seen.view.state in over:
        return 0.0
    return question.spec.stop_timeout


def _keep(question: Question, reason: str, message: str) -> Keep:
    return Keep(name=question.spec.name, because=message, reason=reason, source=question.source)
