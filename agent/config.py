"""The settings of an agent: what its options say, kept with the state so that other commands plan as it does."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from agent.policy import DRAIN_TIMEOUT

_SOURCE = ("desired", "git", "branch", "path", "verify_signatures", "status_ref")


@dataclass(frozen=True, slots=True)
class Settings:
    """None and empty: not said. Paths are absolute; `drain_timeout` is seconds, `disk_floor` bytes; `capacity_map`
    holds for a label the VMs of jobs that may run at once. Documents come from `desired`, or from `path` of `branch` of
    the repository `git`, whose commits those must have signed that `verify_signatures` lists; what became of them goes
    to its `status_ref`. `secrets` lists the secrets that jobs may have; no value of one is a setting."""

    desired: Path | None = None
    git: str | None = None
    branch: str | None = None
    path: str | None = None
    verify_signatures: Path | None = None
    status_ref: str | None = None
    images: Path | None = None
    secrets: Path | None = None
    image_root: tuple[Path, ...] = ()
    host: str | None = None
    accel: str | None = None
    qemu: str | None = None
    hypervisor: str | None = None
    loopback: str | None = None
    max_concurrency: int | None = None
    capacity_map: tuple[tuple[str, int], ...] = ()
    drain_timeout: float | None = None
    on_stop: str | None = None
    max_destroy: int | None = None
    disk_floor: int | None = None

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """The settings among a command's options."""
        said = {one.name: options[one.name] for one in fields(cls) if one.name in options}
        for name in ("desired", "images", "verify_signatures", "secrets"):
            if said.get(name) is not None:
                said[name] = Path(said[name]).absolute()
        said["capacity_map"] = tuple(
            (label, most) for label, most in said.get("capacity_map") or ()
        )
        said["image_root"] = tuple(Path(root).absolute() for root in said.get("image_root") or ())
        return cls(**said)

    def or_else(self, other: Settings) -> Settings:
        """These, and what they leave unsaid from `other`; of where documents come from, all or nothing."""
        unsaid = {
            one.name: getattr(other, one.name)
            for one in fields(self)
            if getattr(self, one.name) in (None, ())
        }
        if self.desired is not None or self.git is not None:
            unsaid = {name: value for name, value in unsaid.items() if name not in _SOURCE}
        return replace(self, **unsaid)

    def to_json(self) -> str:
        """As it is kept in the ledger."""
        return json.dumps(asdict(self), default=str, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """From what `to_json` made; nothing said for None."""
        said = json.loads(text) if text else {}
        return cls.from_options({key: value for key, value in said.items() if value is not None})

    @property
    def drains_for(self) -> float:
        """Seconds that runs get to end when the agent leaves."""
        return DRAIN_TIMEOUT if self.drain_timeout is None else self.drain_timeout

    def host_name(self) -> str:
        """What `hosts:` patterns are matched with."""
        return self.host or socket.gethostname()
