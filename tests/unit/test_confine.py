"""With what a QEMU process starts."""

from __future__ import annotations

from agent.hypervisor.qemu.confine import Confinement, file_size_limit

QEMU = ["qemu-system-x86_64", "-nodefaults"]


def test_root_gives_up_everything_before_qemu_starts() -> None:
    line = Confinement(run_as=60_001, groups=(), file_size=1 << 30).wrap(QEMU)
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
    line = Confinement(run_as=60_001, groups=(105,), file_size=1 << 30).wrap(QEMU)
    assert "--groups=105" in line
    assert "--clear-groups" not in line


def test_anybody_else_gives_up_new_privileges_and_keeps_room_to_raise_a_limit() -> None:
    line = Confinement(run_as=None, groups=(), file_size=1 << 30).wrap(QEMU)
    assert line[:3] == ["setpriv", "--no-new-privs", "--"]
    assert "--fsize=1073741824:" in line
    assert not any(word.startswith("--nproc=") for word in line)


def test_no_disk_reaches_its_limit() -> None:
    for disk in (1 << 20, 8 << 30, 64 << 40):
        assert file_size_limit(disk) > disk + disk // 64
