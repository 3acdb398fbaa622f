"""The settings of an agent: what its options say, kept with the state so that other commands plan as it does."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from agent.errors import BadUsage


@dataclass(frozen=True, slots=True)
class Settings:
    """None and empty: not said. Paths are absolute; `drain_timeout` is seconds; `capacity_map` holds for a label the
    VMs of jobs that may run at once."""

    desired: Path | None = None
    images: Path | None = None
    image_root: tuple[Path, ...] = ()
    host: str | None = None
    accel: str | None = None
    qemu: str | None = None
    hypervisor: str | None = None
    max_concurrency: int | None = None
    capacity_map: tuple[tuple[str, int], ...] = ()
    drain_timeout: float | None = None

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """The settings among a command's options."""
        said = {one.name: options[one.name] for one in fields(cls) if one.name in options}
        for name in ("desired", "images"):
            if said.get(name) is not None:
                said[name] = Path(said[name]).absolute()
        said["capacity_map"] = tuple(
            (label, most) for label, most in said.get("capacity_map") or ()
        )
        said["image_root"] = tuple(Path(root).absolute() for root in said.get("image_root") or ())
        return cls(**said)

    def or_else(self, other: Settings) -> Settings:
        """These, and what they leave unsaid from `other`."""
        unsaid = {
            one.name: getattr(other, one.name)
            for one in fields(self)
            if getattr(self, one.name) in (None, ())
        }
        return replace(self, **unsaid)

    def to_json(self) -> str:
        """As it is kept in the ledger."""
        return json.dumps(asdict(self), default=str, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """From what `to_json` made; nothing said for None."""
        said = json.loads(text) if text else {}
        return cls.from_options({key: value for key, value in said.items() if value is not None})

    def host_name(self) -> str:
        """What `hosts:` patterns are matched with."""
        return self.host or socket.gethostname()

    def desired_directory(self) -> Path:
        """The tree of documents. Raises BadUsage where none was said."""
        if self.desired is None:
            raise BadUsage(
                "no source of documents was given",
                hint="say --desired DIR, or set HOLDFAST_DESIRED",
            )
        return self.desired
