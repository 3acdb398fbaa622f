"""Finds the UEFI firmware that this host's distribution installed for QEMU.

It reads the descriptors that distributions ship for this purpose (docs/interop/firmware.json of QEMU) before it tries
paths that it knows, and refuses firmware that needs system management mode or enforces Secure Boot: its variables are
empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

from agent.errors import BadInput
from state.spec.resolved import MachineType

DESCRIPTORS = (
    Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "qemu/firmware",
    Path("/etc/qemu/firmware"),
    Path("/usr/share/qemu/firmware"),
)
"""Earlier ones win; a file of the same name, an empty one too, hides that of a later directory."""

UNFIT = frozenset({"requires-smm", "secure-boot", "enrolled-keys"})
_BOARDS: dict[MachineType, str] = {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}


@dataclass(frozen=True, slots=True)
class Firmware:
    """Two flash images: `code` is mapped read-only as it is, `variables` is a template that each machine copies."""

    code: Path
    variables: Path


_OVMF = Path("/usr/share/OVMF")
WELL_KNOWN = (
    Firmware(_OVMF / "OVMF_CODE_4M.fd", _OVMF / "OVMF_VARS_4M.fd"),
    Firmware(_OVMF / "OVMF_CODE.fd", _OVMF / "OVMF_VARS.fd"),
)
"""Of Debian's ovmf, which describes the first pair alone; machines made with the second go on with the second."""


def find(
    machine: MachineType,
    *,
    made: int | None = None,
    directories: Sequence[Path] = DESCRIPTORS,
    known: Sequence[Firmware] = WELL_KNOWN,
) -> Firmware:
    """The first firmware that fits `machine`: by the names of the descriptors, then of those at `known` places. `made`:
    bytes of the variables that the machine has already, which only code of their kind can use. Raises BadInput."""
    described = (_fitting(descriptor, machine) for descriptor in _descriptors(directories))
    for firmware in chain(filter(None, described), known):
        if _is_there(firmware, made):
            return firmware
    which = "" if made is None else f" that keeps its variables in {made} bytes"
    raise BadInput(
        f"this host has no UEFI firmware for a {machine} machine{which}",
        hint="install it: Debian and Ubuntu call it ovmf, Fedora edk2-ovmf",
    )


def _is_there(firmware: Firmware, made: int | None) -> bool:
    try:
        size = firmware.variables.stat().st_size
    except OSError:
        return False
    return firmware.code.is_file() and made in (None, size)


def _descriptors(directories: Sequence[Path]) -> Iterator[Path]:
    by_name: dict[str, Path] = {}
    for directory in directories:
        for path in directory.glob("*.json"):
            by_name.setdefault(path.name, path)
    yield from (path for _, path in sorted(by_name.items()))


def _fitting(descriptor: Path, machine: MachineType) -> Firmware | None:
    try:
        told: dict[str, Any] = json.loads(descriptor.read_bytes())
        mapping = told["mapping"]
        fits = (
            "uefi" in told["interface-types"]
            and not UNFIT & set(told["features"])
            and any(_targets(target, machine) for target in told["targets"])
            and mapping["device"] == "flash"
            and mapping["executable"]["format"] == mapping["nvram-template"]["format"] == "raw"
        )
        if not fits:
            return None
        return Firmware(
            Path(mapping["executable"]["filename"]), Path(mapping["nvram-template"]["filename"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not ours to judge: the next one may do


def _targets(target: dict[str, Any], machine: MachineType) -> bool:
    board = _BOARDS[machine]
    return target["architecture"] == "x86_64" and any(
        fnmatch(board, pattern) for pattern in target["machines"]
    )
