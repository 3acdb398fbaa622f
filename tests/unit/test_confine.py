"""With what a QEMU process starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.hypervisor.qemu.confine import Confinement, file_size_limit
from agent.hypervisor.qemu.process import groups_for

QEMU = ["qemu-system-x86_64", "-nodefaults"]


def test_root_gives_up_everything_before_qemu_starts() -> None:
    line = Confinement(run_as=60_001, from_root=True, groups=(), file_size=1 << 30).wrap(QEMU)
    assert line[:9] == [
        "setpriv",
        "--reuid=60001",
        "--regid=60001",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
        "--",
    ]
    assert line[-2:] == QEMU
    assert "--core=0:0" in line
    assert "--fsize=1073741824:1073741824" in line
    assert any(word.startswith("--nproc=") for word in line)


def test_a_device_of_a_group_brings_that_group_alone() -> None:
    line = Confinement(run_as=60_001, from_root=True, groups=(105,), file_size=1 << 30).wrap(QEMU)
    assert "--groups=105" in line
    assert "--clear-groups" not in line


def test_root_that_has_no_other_user_to_give_still_gives_up_its_capabilities() -> None:
    line = Confinement(run_as=None, from_root=True, groups=(), file_size=1 << 30).wrap(QEMU)
    assert "--bounding-set=-all" in line
    assert not any(word.startswith("--reuid") for word in line)


@pytest.mark.parametrize(
    ("mode", "gid", "groups"),
    [(0o660, 105, (105,)), (0o666, 105, ()), (0o600, 105, ()), (0o660, 0, ()), (0o600, 0, ())],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_is_given_where_it_helps_and_is_not_roots(
    tmp_path: Path, mode: int, gid: int, groups: tuple[int, ...]
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, 0, gid)
    device.chmod(mode)
    assert groups_for(device) == groups
    assert groups_for(tmp_path / "missing") == ()


def test_anybody_else_gives_up_new_privileges_and_keeps_room_to_raise_a_limit() -> None:
    line = Confinement(run_as=None, from_root=False, groups=(), file_size=1 << 30).wrap(QEMU)
    assert line[:3] == ["setpriv", "--no-new-privs", "--"]
    assert "--fsize=1073741824:" in line
    assert not any(word.startswith("--nproc=") for word in line)


def test_no_disk_reaches_its_limit() -> None:
    for disk in (1 << 20, 8 << 30, 64 << 40):
        assert file_size_limit(disk) > disk + disk // 64
