"""Which UEFI firmware is taken, of those that a distribution describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BadInput
from agent.hypervisor.qemu.firmware import Firmware, find


def describe(directory: Path, name: str, **changes: Any) -> Firmware:
    """A descriptor as Debian ships it, with its two files."""
    directory.mkdir(exist_ok=True)
    code, variables = directory / f"{name}.code", directory / f"{name}.vars"
    code.write_bytes(b"code")
    variables.write_bytes(b"vars")
    told: dict[str, Any] = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "raw"},
            "nvram-template": {"filename": str(variables), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
    }
    (directory / f"{name}.json").write_text(json.dumps(told | changes))
    return Firmware(code, variables)


def test_plain_firmware_is_taken_before_what_enforces_secure_boot(tmp_path: Path) -> None:
    describe(tmp_path, "40-secure", features=["secure-boot", "requires-smm"])
    plain = describe(tmp_path, "60-plain")
    describe(tmp_path, "70-other")
    assert find("pc", directories=[tmp_path]) == plain
    assert find("q35", directories=[tmp_path]) == plain


def test_firmware_for_other_machines_is_passed_over(tmp_path: Path) -> None:
    describe(tmp_path, "10-arm", targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    describe(tmp_path, "20-q35", targets=[{"architecture": "x86_64", "machines": ["pc-q35-*"]}])
    describe(tmp_path, "30-bios", **{"interface-types": ["bios"]})
    (tmp_path / "05-broken.json").write_text("{")
    with pytest.raises(BadInput, match="ovmf"):
        find("pc", directories=[tmp_path], known=[])


def test_the_operators_own_descriptor_hides_the_distributions(tmp_path: Path) -> None:
    etc, share = tmp_path / "etc", tmp_path / "share"
    describe(share, "50-a")
    other = describe(share, "60-b")
    etc.mkdir()
    (etc / "50-a.json").touch()
    assert find("pc", directories=[etc, share]) == other


def test_a_descriptor_whose_files_are_gone_is_passed_over(tmp_path: Path) -> None:
    describe(tmp_path, "50-a").code.unlink()
    with pytest.raises(BadInput):
        find("pc", directories=[tmp_path, tmp_path / "missing"], known=[])


def test_places_that_are_known_are_tried_where_no_descriptor_fits(tmp_path: Path) -> None:
    """Sabotage: try them first."""
    known = describe(tmp_path / "known", "ovmf")
    assert find("q35", directories=[tmp_path], known=[known]) == known
    described = describe(tmp_path, "60-plain")
    assert find("q35", directories=[tmp_path], known=[known]) == described


def test_a_machine_keeps_to_the_firmware_that_its_variables_were_made_for(tmp_path: Path) -> None:
    """An upgrade of the host may describe another, whose code cannot use them. Sabotage: take the first one."""
    now, before = describe(tmp_path, "60-now"), describe(tmp_path / "known", "before")
    before.variables.write_bytes(b"smaller")
    for made, fitting in ((None, now), (4, now), (7, before)):
        assert find("q35", made=made, directories=[tmp_path], known=[before]) == fitting
    with pytest.raises(BadInput, match="for a q35 machine that keeps its variables in 5 bytes"):
        find("q35", made=5, directories=[tmp_path], known=[before])
