"""The closed vocabulary between what is decided and what is done: every step that a plan can hold.

A step names the (name, generation, uid) that it is about, so that it can refuse when the world has moved on, and it
carries every choice (port, uid, generation), so that doing it takes no decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

from state.desired import SourceRef
from state.ids import Name, RunId, Uid
from state.lifecycle import Cause
from state.spec.resolved import Forward, ImageSpec, VmSpec
from state.spec.resolved_job import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    action: ClassVar[str]
    acts: ClassVar[bool] = True
    """Whether doing it changes anything."""

    kind: Literal["vm", "job"] = "vm"
    name: Name
    because: str
    """A sentence part for people: `memory 512MiB -> 1GiB`."""
    fields: tuple[str, ...] = ()
    """The document's fields that asked for it."""
    source: SourceRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Every choice for a new instance of a vm or of a run (`kind`). `ssh_port` None: its image takes no keys, so nobody
    can log in."""

    uid: Uid
    generation: int
    spec: VmSpec
    source: SourceRef
    accelerator: str
    ssh_port: int | None
    run_as: int | None
    forwards: tuple[Forward, ...]
    kind: Literal["vm", "job"] = "vm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(_Step):
    """Make an instance and start it, or go on with one whose creation was cut off. `fetch`: what must be in the store
    first; the step is not begun in a pass that plans it with one."""

    action = "create"
    birth: Birth
    fetch: ImageSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(_Step):
    """Make everything of a new instance and its inert process, then end the `old` ones, let the new one run, and remove
    what is left of the old. Among these may be instances that were overtaken before they ever ran."""

    action = "replace"
    birth: Birth
    old: tuple[Uid, ...]
    fetch: ImageSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy(_Step):
    """End the instances of a name, remove their files and forget the name. `grace`: seconds for a power-down."""

    action = "destroy"
    uids: tuple[Uid, ...]
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear(_Step):
    """Clear away instances that never ran, such as a replacement that is not wanted any more. Shown as an update:
    nothing that a guest has written is lost by it."""

    action = "update"
    uids: tuple[Uid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(_Step):
    """Start an instance again from its own disk; what is left of its process is ended first, `grace` seconds being
    given to a guest that still runs."""

    action = "restart"
    uid: Uid
    spec: VmSpec
    accelerator: str
    cause: Cause
    grace: float
    fault: bool
    """Whether it counts towards the back-off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt(_Step):
    """Supervise a running instance that another agent started; it is not touched."""

    action = "adopt"
    uid: Uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(_Step):
    """Bring the live fields of an instance to `spec` without ending it."""

    action = "update"
    uid: Uid
    spec: VmSpec
    forwards: tuple[Forward, ...] | None = None
    """The whole new set of forwards; None: unchanged."""
    grow: int | None = None
    """The new size of the root disk in bytes; None: unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power(_Step):
    """Bring a live instance to `running`, `paused` or `stopped`. Shown as an update: nothing is lost by it. `spec`
    None: what is recorded of it stays."""

    action = "update"
    uid: Uid
    spec: VmSpec | None
    to: str
    cause: Cause
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unblock(_Step):
    """Let a guest go on that was stopped because the host could not write to its disk. Shown as an update: the write is
    done again, and nothing is lost."""

    action = "update"
    uid: Uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(_Step):
    """Record that an instance ended and that it stays so."""

    action = "update"
    uid: Uid
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue(_Step):
    """Record a new run of a job, with what it needs from the tree: nothing of it is looked up there again."""

    action = "run"
    kind: Literal["vm", "job"] = "job"
    source: SourceRef
    run: RunId
    number: int
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(_Step):
    """Begin an attempt of a run in a fresh VM, and see it to its end. A run that is not recorded yet is queued
    first."""

    action = "run"
    kind: Literal["vm", "job"] = "job"
    source: SourceRef
    run: RunId
    number: int
    spec: JobSpec
    birth: Birth


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(_Step):
    """Take up an attempt that another agent began, wherever it stands, and see it to its end."""

    action = "adopt"
    kind: Literal["vm", "job"] = "job"
    run: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRun(_Step):
    """End a run without a result of its own."""

    action = "destroy"
    kind: Literal["vm", "job"] = "job"
    run: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(_Step):
    """Nothing to do, and why. `run`: what the document of a job asks for was run by that one."""

    action = "keep"
    acts = False
    reason: str
    run: RunId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(_Step):
    """Something is to be done, but not now. `until`: seconds until it may be, where only time is waited for."""

    action = "wait"
    acts = False
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(_Step):
    """The name is left exactly as it is, since what is wanted of it cannot be told or is not allowed."""

    action = "hold"
    acts = False
    reason: str


Step = (
    Create
    | Replace
    | Destroy
    | Clear
    | Restart
    | Adopt
    | Update
    | Power
    | Unblock
    | Crash
    | Enqueue
    | Attempt
    | Resume
    | CancelRun
    | Keep
    | Wait
    | Hold
)

Starting = Create | Replace | Restart
"""The steps that start a vm."""


def target(step: Step) -> str:
    """What a step aims at, the same each time it is planned again and another once the document has changed: a failure
    delays the next try of this, and of nothing else."""
    match step:
        case Create() | Replace():
            return f"{step.action} {step.birth.uid} {step.birth.spec.digest}"
        case Destroy():
            return f"destroy {' '.join(step.uids)}"
        case Clear():
            return f"clear {' '.join(step.uids)}"
        case Restart() | Update():
            return f"{step.action} {step.uid} {step.spec.digest}"
        case Power():
            return f"{step.to} {step.uid} {step.spec.digest if step.spec else ''}"
        case Adopt() | Unblock() | Crash():
            return f"{step.action} {step.uid}"
        case Enqueue() | Attempt() | Resume() | CancelRun():
            return f"{step.action} {step.run}"
        case Keep() | Wait() | Hold():
            return step.action
    assert_never(step)
