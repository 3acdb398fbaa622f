"""What is known just now: the recorded instances, each with what its process was found to be, and what the host has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from state.desired import SourceRef
from state.ids import Digest, Name, Process, RunId, Uid
from state.lifecycle import Cause, Phase
from state.runs import Run
from state.spec.resolved import MAX_SIZE, DiskFormat, Forward, ImageSpec, VmSpec
from state.spec.resolved_job import JobSpec

DISK_FLOOR = 512 << 20
"""Bytes of its disk that whatever is new leaves free, where the operator says nothing else."""


class RunState(StrEnum):
    """What a machine says of itself. From QEMU's `query-status`; the values that holdfast treats alike are one here."""

    INERT = "inert"
    """Spawned, never resumed: not one instruction of the guest has run (`prelaunch`)."""
    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"
    """The guest powered itself off; the process stays so that this can be seen (`shutdown`)."""
    PANICKED = "panicked"
    """The guest's kernel reported a panic through pvpanic (`guest-panicked`)."""
    IO_ERROR = "io-error"
    """Stopped by a failed write of the host, such as a full disk."""
    OTHER = "other"
    """A state that holdfast never brings about, such as a migration."""


@dataclass(frozen=True, slots=True)
class View:
    """What was last heard of a machine. `state` None: nothing yet.

    `responsive` False: it was asked and did not answer within the deadline; `state` is then what it said before.
    `detail` is for people: the monitor's error, or QEMU's own word for the state. `resets` counts the guest's own
    resets since this agent supervises it, those within a second as one: a reboot is no exit. `in_a_row` counts those
    of them that came within minutes of the one before: a loop of them is only seen here. `remark`: what is wrong with
    its files though it runs, as a sentence part.
    """

    state: RunState | None
    responsive: bool = True
    detail: str = ""
    resets: int = 0
    in_a_row: int = 0
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, as far as it can be known: the status is only told to the parent, and an adopting agent is
    none. `text` is a sentence part, such as `killed by SIGKILL` or QEMU's last words on standard error."""

    text: str
    status: int | None = None


class Verdict(StrEnum):
    """What became of a recorded process."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """It could not be told. Nothing is started over it and nothing of it is removed."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A complete, verified, read-only image in the store; `virtual_size` in bytes is what its guest sees."""

    path: Path
    format: DiskFormat
    virtual_size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A base image in the store, and what it was fetched from; empty where that is not known. `size`: the bytes that it
    takes of the disk. Times are Unix seconds; `used_at`: when it was last seen that somebody wants it."""

    base: BaseImage
    source: str
    size: int
    fetched_at: float
    used_at: float


@dataclass(frozen=True, slots=True)
class HowFar:
    """The bytes of a download that have come, of `total`; None: nobody knows of how many."""

    got: int
    total: int | None

    def __str__(self) -> str:
        return f"{100 * self.got // self.total}%" if self.total else f"{self.got >> 20} MiB"


@dataclass(frozen=True)
class Instance:
    """One recorded instance. Times are Unix seconds; `ssh_port` None: its image takes no keys.

    `spec` is the canonical text of what it was made from and last updated to; `base` is the image that its disk
    stands on, by content.
    """

    uid: Uid
    name: Name
    generation: int
    phase: Phase
    cause: Cause
    spec: str
    spec_digest: Digest
    base: BaseImage
    accelerator: str
    source: SourceRef
    created_at: float
    process: Process | None = None
    forwards: tuple[Forward, ...] = ()
    ssh_port: int | None = None
    run_as: int | None = None
    started_at: float | None = None
    ready_at: float | None = None
    restarts: int = 0
    detail: str = ""
    kind: Literal["vm", "job"] = "vm"
    """What it belongs to: a vm, or one attempt of a job's run."""
    unhealthy: str = ""
    """Why its health check fails, as a sentence part; empty: it does not, or not often enough yet."""

    @cached_property
    def vm_spec(self) -> VmSpec:
        """What `spec` says. Raises ValueError or TypeError for a text that this version did not write."""
        return VmSpec.from_canonical(self.spec)


class Seen(NamedTuple):
    """An instance and what was found of it. A pass makes one of each, which as a tuple costs a third."""

    instance: Instance
    verdict: Verdict
    view: View = View(None)
    exit: Exit | None = None
    attached: bool = False
    """Whether this agent supervises it; a new agent adopts first."""


@dataclass(frozen=True, slots=True)
class NameRecord:
    """What is remembered of a name beyond its instances: the last generation that it had, and its leased SSH port. A
    name that was destroyed has no port any more."""

    name: Name
    generation: int = 0
    ssh_port: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """What failed, how often in a row, and when it is tried again: `retry_at` is a CLOCK_BOOTTIME of the boot
    `retry_boot`. `key` is `vm/NAME` for a machine that does not stay up, `step/NAME/ACTION` for a step that failed
    (`what` says which), `image/SOURCE …` for an image."""

    key: str
    what: str = ""
    failures: int = 0
    retry_at: float = 0.0
    retry_boot: str = ""
    error: str = ""


def vm_key(name: Name) -> str:
    """The key for a vm that does not stay up."""
    return f"vm/{name}"


def step_key(name: Name, action: str) -> str:
    """The key for a vm's step that failed. Each action has its own: while a replacement cannot be made, what it is to
    replace is still looked after."""
    return f"step/{name}/{action}"


def image_key(image: ImageSpec) -> str:
    """The key for an image that cannot be had: one that is asked for otherwise is asked for at once."""
    made_of = f"{image.source} {image.digest} {image.decompress} {image.format}"
    return f"image/{made_of}" + (f" {image.max_size}" if image.max_size != MAX_SIZE else "")


class Listener(NamedTuple):
    """A TCP port of this host that something listens on; `address` is IPv4, `0.0.0.0` for every address (IPv6
    wildcard sockets count as that). `owner` is a sentence part that names who, `pid` where it could be found."""

    address: str
    port: int
    pid: int | None = None
    owner: str = "another program"


@dataclass(frozen=True, slots=True)
class Ways:
    """What leads into a guest: its forwards, and the port and the user of its SSH login. `ssh_port` None: its image
    takes no key."""

    forwards: tuple[Forward, ...]
    ssh_port: int | None
    user: str


@dataclass(frozen=True, slots=True)
class Given:
    """What a step under way was given, which is recorded only in its course: the forwards, the SSH port and the user of
    its instance, and, where it is an attempt, which run of which job that is for."""

    forwards: tuple[Forward, ...] = ()
    ssh_port: int | None = None
    run_as: int | None = None
    attempt: tuple[RunId, JobSpec] | None = None


@dataclass(frozen=True)
class Observed:
    """What the planner is told of the world.

    `images` holds the specs whose image is in the store. `busy` are names with a step under way, and what it is;
    `given` is what those steps were given; `fetching` are images on their way, each with a sentence part on how far.
    `runs` are the runs that are remembered, oldest of each name first; `free_memory` and `free_disk` are the bytes that
    may still come to be used, None where nobody looked. `suspended`: a person wants everything left alone; `approved`:
    instances that a person lets be destroyed.
    """

    instances: tuple[Seen, ...] = ()
    names: Mapping[Name, NameRecord] = field(default_factory=dict)
    images: Mapping[ImageSpec, BaseImage] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    busy: Mapping[Name, str] = field(default_factory=dict)
    given: Mapping[Name, Given] = field(default_factory=dict)
    fetching: Mapping[ImageSpec, str] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    free_memory: int | None = None
    free_disk: int | None = None
    suspended: bool = False
    approved: frozenset[Uid] = frozenset()

    def by_name(self, kind: Literal["vm", "job"]) -> Mapping[Name, list[Seen]]:
        """The instances of each name of a kind, oldest generation first."""
        return self._by_name[kind]

    @cached_property
    def _by_name(self) -> Mapping[str, Mapping[Name, list[Seen]]]:
        grouped: dict[str, dict[Name, list[Seen]]] = {"vm": {}, "job": {}}
        for seen in self.instances:
            instance = seen.instance
            of_kind = grouped[instance.kind]
            same = of_kind.get(instance.name)
            if same is None:
                of_kind[instance.name] = [seen]
            else:
                same.append(seen)
                same.sort(key=lambda seen: seen.instance.generation)
        return grouped
