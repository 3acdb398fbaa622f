"""The files of one machine: made whole, kept, locked, and removed without following anything."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import BadInput, Blocked, StopFailed
from agent.hypervisor.api import BaseImage, Machine, SeedContent
from agent.hypervisor.qemu import files
from agent.hypervisor.qemu.files import Lock
from agent.hypervisor.qemu.forwards import parsed
from agent.paths import InstancePaths, StatePaths
from state.ids import Digest, Name, Uid, instance_uid
from state.spec.resolved import Forward
from tests.builders import STATE_ID


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    return StatePaths(tmp_path)


@pytest.fixture
def machine(paths: StatePaths) -> Machine:
    base = BaseImage(paths.root / "base", "raw", 1 << 20, Digest("sha256:" + "0" * 64))
    return Machine(
        uid=instance_uid(STATE_ID, "vm", "web", 1),
        name=Name("web"),
        generation=1,
        base=base,
        cpus=1,
        memory=32 << 20,
        disk=2 << 20,
        accelerator="tcg",
        seed=SeedContent("debian", None),
        run_as=60_001,
        record='{"a": 1}',
    )


def mine(paths: StatePaths, machine: Machine) -> InstancePaths:
    return paths.instance(machine.uid)


def test_everything_is_made_once_and_readable_by_its_owner_alone(
    paths: StatePaths, machine: Machine
) -> None:
    files.prepare(paths, machine)
    made = mine(paths, machine)
    first = {path.name: path.stat().st_ino for path in made.directory.iterdir()}
    assert set(first) == {"disk.qcow2", "seed.iso", "instance.json"}
    assert {path.stat().st_mode & 0o777 for path in made.directory.iterdir()} == {0o600}
    assert made.directory.stat().st_mode & 0o777 == 0o700
    files.prepare(paths, machine)
    assert {path.name: path.stat().st_ino for path in made.directory.iterdir()} == first


def test_the_description_tells_what_the_machine_is(paths: StatePaths, machine: Machine) -> None:
    files.prepare(paths, machine)
    described = files.described(mine(paths, machine))
    assert described is not None
    assert described.kept.record == '{"a": 1}'
    assert described.run_as == 60_001
    assert json.loads(mine(paths, machine).description.read_text())["machine"]["memory"] == 32 << 20
    files.prepare(paths, replace(machine, record="{}"))
    assert [kept.record for kept in files.all_kept(paths)] == ["{}"]


def test_a_description_that_was_moved_or_damaged_is_none(
    paths: StatePaths, machine: Machine
) -> None:
    files.prepare(paths, machine)
    made = mine(paths, machine)
    made.directory.rename(paths.instances / "11111111-2222-3333-4444-555555555555")
    assert files.all_kept(paths) == []
    files.prepare(paths, machine)
    made.description.write_text("{")
    assert files.described(made) is None
    files.prepare(paths, machine)
    assert files.described(made) is not None


@pytest.mark.parametrize(
    "lost", ["seed.iso", "instance.json", pytest.param("efivars.fd", marks=pytest.mark.qemu)]
)
def test_what_a_crash_left_out_is_added_beside_a_disk_that_stays(
    paths: StatePaths, machine: Machine, lost: str
) -> None:
    if lost == "efivars.fd":
        machine = replace(machine, firmware="uefi")
    files.prepare(paths, machine)
    made = mine(paths, machine)
    with made.disk.open("r+b") as disk:
        disk.seek(200_000)
        disk.write(b"the guest's")
    before = made.disk.read_bytes()
    (made.directory / lost).unlink()
    files.prepare(paths, machine)
    assert made.disk.read_bytes() == before
    assert (made.directory / lost).exists()


def test_a_disk_that_is_gone_is_reported_and_not_made_empty(
    paths: StatePaths, machine: Machine
) -> None:
    files.prepare(paths, machine)
    mine(paths, machine).disk.unlink()
    with pytest.raises(Blocked, match=r"disk\.qcow2"):
        files.prepare(paths, machine)
    assert not mine(paths, machine).disk.exists()


def test_a_lock_outlives_its_taker_in_the_process_that_inherited_it(
    paths: StatePaths, machine: Machine
) -> None:
    files.prepare(paths, machine)
    made = mine(paths, machine)
    lock = Lock.take(made)
    assert lock is not None
    assert Lock.take(made) is None
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.descriptor,))
    lock.release()
    try:
        assert Lock.take(made) is None
        with pytest.raises(StopFailed):
            files.discard(paths, machine.uid)
        assert made.disk.exists()
    finally:
        child.kill()
        child.wait()
    files.discard(paths, machine.uid)
    assert not made.directory.exists()
    files.discard(paths, machine.uid)


def test_discarding_follows_no_link(paths: StatePaths, machine: Machine) -> None:
    outside = paths.root / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    files.prepare(paths, machine)
    made = mine(paths, machine)
    (made.directory / "link").symlink_to(outside)
    files.discard(paths, machine.uid)
    assert (outside / "precious").exists()
    made.directory.symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        files.discard(paths, machine.uid)
    assert (outside / "precious").exists()


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "../outside", "x/y", "{11111111-2222-3333-4444-555555555555}"]
)
def test_only_a_uid_names_a_directory(paths: StatePaths, uid: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # UUID() has its own words
        files.discard(paths, Uid(uid))


def test_forwards_are_read_from_what_qemu_lists() -> None:
    listed = """Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  18       127.0.0.1 39435       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  19               *  8080       10.0.2.15    80     0     0
  TCP[ESTABLISHED]   20       10.0.2.15 51000      192.0.2.1   443     0     0
"""
    assert parsed(listed) == {Forward(39435, 22), Forward(8080, 80, "0.0.0.0")}


def test_only_the_record_of_a_description_is_written_anew(
    paths: StatePaths, machine: Machine
) -> None:
    files.describe(paths, machine.uid, "{}")
    assert not mine(paths, machine).directory.exists()
    files.prepare(paths, machine)
    files.describe(paths, machine.uid, '{"b": 2}')
    described = mine(paths, machine).description
    as_described = described.read_bytes()
    files.prepare(paths, replace(machine, record='{"b": 2}'))
    assert described.read_bytes() == as_described
    before = described.stat().st_ino
    files.describe(paths, machine.uid, '{"b": 2}')
    assert described.stat().st_ino == before


def test_who_asks_for_a_lock_neither_takes_it_nor_makes_it(
    paths: StatePaths, machine: Machine
) -> None:
    files.prepare(paths, machine)
    made = mine(paths, machine)
    with pytest.raises(FileNotFoundError):
        Lock.held(made)
    assert not made.pid_file.exists()
    lock = Lock.take(made)
    assert lock is not None
    assert Lock.held(made)
    lock.release()
    assert not Lock.held(made)


@pytest.mark.qemu
@pytest.mark.parametrize("lost", ["efivars.fd", "seed.iso", "disk.qcow2"])
def test_a_start_that_lacks_a_file_leaves_nothing_open(
    paths: StatePaths, machine: Machine, lost: str
) -> None:
    machine = replace(machine, firmware="uefi")
    files.prepare(paths, machine)
    made = mine(paths, machine)
    (made.directory / lost).unlink()
    lock = Lock.take(made)
    assert lock is not None
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match=lost), files.opened(paths, machine, lock):
        pass
    assert sorted(os.listdir("/proc/self/fd")) == before
    lock.release()


@pytest.mark.qemu
def test_variables_of_the_firmware_are_copied_once_and_those_of_no_firmware_are_told(
    paths: StatePaths, machine: Machine
) -> None:
    """Sabotage: take whatever firmware there is now; copy its variables at each start."""
    machine = replace(machine, firmware="uefi")
    files.prepare(paths, machine)
    variables = mine(paths, machine).firmware_variables
    with variables.open("r+b") as file:
        file.write(b"saved")
    files.prepare(paths, machine)
    assert variables.read_bytes().startswith(b"saved")
    variables.write_bytes(b"another's")
    with pytest.raises(BadInput) as error:
        files.prepare(paths, machine)
    assert str(error.value) == (
        "web starts with UEFI: this host has no UEFI firmware for a pc machine that keeps its variables in 9 bytes"
        " (install it: Debian and Ubuntu call it ovmf, Fedora edk2-ovmf; or remove"
        f" {variables} to begin with fresh variables)"
    )


def test_what_is_left_of_a_machine_is_found_unless_it_is_whole_or_lives(
    paths: StatePaths, machine: Machine
) -> None:
    """Sabotage: take every directory without a description for a leftover."""
    assert files.leftovers(paths) == []
    files.prepare(paths, machine)
    made = mine(paths, machine)
    lock = Lock.take(made)
    assert lock is not None
    assert files.leftovers(paths) == []
    made.description.unlink()
    assert files.leftovers(paths) == [], "its process lives"
    lock.release()
    assert files.leftovers(paths) == [machine.uid]
    other = instance_uid(STATE_ID, "vm", "db", 1)
    (paths.sockets / other).mkdir(parents=True)
    (paths.sockets / "api.sock").touch()
    (paths.instances / "notes").mkdir()
    assert files.leftovers(paths) == sorted([machine.uid, other])
    assert files.leftovers(paths, {machine.uid}) == [other]
    for uid in (machine.uid, other):
        files.discard(paths, uid)
    assert files.leftovers(paths) == []
    assert (paths.instances / "notes").exists(), "what is not ours stays"
