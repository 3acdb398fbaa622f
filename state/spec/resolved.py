"""A vm as it is wanted, whole: every default applied, its label resolved to an image, its files read.

This is what a plan compares and what the ledger keeps; its canonical JSON is what the digest is taken of. It refuses to
know where a value came from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, assert_never

from state.fields import canonical
from state.ids import Digest, Name
from state.spec.effects import IMAGE_EFFECTS, VM_EFFECTS, Effect
from state.spec.units import format_duration, format_size

Power = Literal["running", "stopped", "paused"]
Restart = Literal["always", "on_failure", "never"]
Check = Literal["tcp", "http", "ssh"]
Decompress = Literal["none", "zstd", "gzip", "xz"]
DiskFormat = Literal["qcow2", "raw"]
SeedBus = Literal["ide", "scsi", "virtio"]
Firmware = Literal["bios", "uefi"]
MachineType = Literal["pc", "q35"]

MAX_SIZE = 256 << 30
"""Bytes that an image may have where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One entry of an image map.

    `source` is an `http(s)://` or `file://` URL with an absolute path. `digest` is that of what is downloaded, before
    decompression; None where the map pins none. `max_size`: bytes that it may have when it is unpacked, and that its
    guest may see. `copy` is a `file://` URL where it may lie on this host, unpacked: how it is had is no part of what
    is wanted, and neither compared nor kept.
    """

    label: str
    source: str
    digest: Digest | None = None
    decompress: Decompress = "none"
    format: DiskFormat = "qcow2"
    nocloud: bool = True
    seed_bus: SeedBus = "ide"
    firmware: Firmware = "bios"
    machine: MachineType = "pc"
    ssh_user: str = "root"
    boot_timeout: float = 300.0
    max_size: int = MAX_SIZE
    copy: str | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        """Of little, since each pass asks for it several times a name, and images of one source are few."""
        return hash(self.source)

    def as_copy(self) -> ImageSpec | None:
        """The image as its copy holds it. None where none may be taken: beside a source that is on this host, too, and
        of one that comes packed and is pinned, since its digest says nothing of what it unpacks to."""
        if self.copy is None or self.source.startswith("file:"):
            return None
        if self.digest is not None and self.decompress != "none":
            return None
        return replace(self, source=self.copy, decompress="none")


@dataclass(frozen=True, slots=True)
class Forward:
    """A TCP port of the host that leads to a port of the guest; `address` is an IPv4 address of the host."""

    host: int
    guest: int
    address: str = "127.0.0.1"

    def __str__(self) -> str:
        return f"{self.address}:{self.host}->{self.guest}"


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """What makes a vm ready: a TCP connection to `port` of the guest, a GET of `path` there that answers with `status`,
    or an SSH login. Times are seconds; failures within `start_period` of the start do not count."""

    check: Check
    interval: float
    timeout: float
    failures: int
    start_period: float
    port: int | None = None
    path: str = "/"
    status: int = 200

    def __str__(self) -> str:
        match self.check:
            case "http":
                return f"http {self.port} {self.path}"
            case "tcp":
                return f"tcp {self.port}"
            case "ssh":
                return "ssh"
        assert_never(self.check)


@dataclass(frozen=True)
class VmSpec:
    """A vm as it is wanted. `memory` and `disk` are bytes, `stop_timeout` seconds; `disk` None: the image's size;
    `health` None: an SSH login makes it ready."""

    name: Name
    image: ImageSpec
    cpus: int
    memory: int
    disk: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[Forward, ...] = ()
    egress: bool = True
    user_data: str | None = None
    power: Power = "running"
    restart: Restart = "always"
    suspend: bool = False
    protect: bool = False
    stop_timeout: float = 30.0
    health: HealthSpec | None = None
    depends_on: tuple[Name, ...] = ()

    def canonical(self) -> str:
        """Equal specs, and only they, have equal texts."""
        return canonical(self)

    @cached_property
    def digest(self) -> Digest:
        """`sha256:` of the canonical form."""
        return Digest("sha256:" + hashlib.sha256(self.canonical().encode()).hexdigest())

    @classmethod
    def from_canonical(cls, text: str) -> VmSpec:
        """The spec whose `canonical()` is `text`. Raises ValueError or TypeError for a text that this version did not
        write."""
        fields: dict[str, Any] = json.loads(text)
        fields["image"] = ImageSpec(**fields["image"])
        fields["labels"] = tuple((key, value) for key, value in fields["labels"])
        fields["ports"] = tuple(Forward(**port) for port in fields["ports"])
        health = fields.get("health")
        fields["health"] = None if health is None else HealthSpec(**health)
        fields["depends_on"] = tuple(fields.get("depends_on", ()))
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs between two specs: its name as the document spells it, its effect, and both values as a
    person would write them."""

    field: str
    effect: Effect
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field} {self.old} -> {self.new}"


def changes(old: VmSpec, new: VmSpec) -> tuple[Change, ...]:
    """What differs, in the order of the fields. Empty exactly when the digests are equal."""
    if old == new:
        return ()
    found = [
        Change(field, VM_EFFECTS[field], _shown(field, before), _shown(field, after))
        for field, before, after in (
            ("labels", old.labels, new.labels),
            ("cpus", old.cpus, new.cpus),
            ("memory", old.memory, new.memory),
            ("disk", old.disk, new.disk),
            ("ports", old.ports, new.ports),
            ("network", old.egress, new.egress),
            ("user_data", old.user_data, new.user_data),
            ("power", old.power, new.power),
            ("restart", old.restart, new.restart),
            ("health", old.health, new.health),
            ("depends_on", old.depends_on, new.depends_on),
            ("suspend", old.suspend, new.suspend),
            ("protect", old.protect, new.protect),
            ("stop_timeout", old.stop_timeout, new.stop_timeout),
        )
        if before != after
    ]
    return (*_image_changes(old.image, new.image), *found)


def _image_changes(old: ImageSpec, new: ImageSpec) -> tuple[Change, ...]:
    pinned = old.digest is not None and old.digest == new.digest
    found = []
    for key, effect in IMAGE_EFFECTS.items():
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        if key == "source" and pinned:
            effect = Effect.NONE
        name = "image" if key in ("label", "source", "digest") else f"image.{key}"
        found.append(Change(name, effect, _shown(key, before), _shown(key, after)))
    return tuple(found)


_NOTHING = {
    "disk": "the image's size",
    "user_data": "none",
    "digest": "not pinned",
    "health": "an SSH login",
}
"""What it means that a field has no value."""


def _shown(field: str, value: Any) -> str:
    if value is None:
        return _NOTHING[field]
    match field:
        case "memory" | "disk" | "max_size":
            return format_size(value)
        case "stop_timeout" | "boot_timeout":
            return format_duration(value)
        case "ports" | "depends_on":
            return "[" + ", ".join(map(str, value)) + "]"
        case "labels":
            return "{" + ", ".join(f"{key}: {text}" for key, text in value) + "}"
        case "network":
            return "egress" if value else "no egress"
        case "user_data":
            return "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:12]
        case "digest":
            return str(value)[:19]
        case "nocloud" | "suspend" | "protect":
            return "true" if value else "false"
        case _:
            return str(value)
