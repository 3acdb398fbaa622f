"""What a QEMU that a guest has taken over could do: as little as can be arranged."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from qemu.qmp import QMPError

from agent.errors import StartFailed
from agent.hypervisor.api import RunState, SeedContent
from agent.hypervisor.qemu import firmware
from agent.hypervisor.qemu.argv import mark
from agent.hypervisor.qemu.driver import QemuHypervisor
from state.spec.resolved import Forward
from tests.contract.houses import RUN_AS, QemuHouse
from tests.e2e.confinement import (
    assert_confined,
    assert_listens_only_on,
    assert_private,
    open_files,
)
from tests.e2e.qmp import connected
from tests.waiting import eventually

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(60)]

ALLOWED = {
    # what the command line asks for
    *(
        "isa-serial",
        "virtio-blk-pci",
        "virtio-blk-device",
        "ide-cd",
        "virtio-net-pci",
        "virtio-net-device",
    ),
    *(
        "virtio-rng-pci",
        "virtio-rng-device",
        "virtio-balloon-pci",
        "virtio-balloon-device",
        "pvpanic",
    ),
    # what the board `pc` has and cannot be without, its floppy controller without drives among it
    *(
        "hpet",
        "ioapic",
        "i440FX-pcihost",
        "i440FX",
        "PIIX3",
        "PIIX4_PM",
        "piix3-ide",
        "smbus-eeprom",
        "fw_cfg_io",
    ),
    *(
        "port92",
        "i8042",
        "isa-fdc",
        "isa-pcspk",
        "isa-pit",
        "mc146818rtc",
        "isa-i8259",
        "i8257",
        "kvmvapic",
    ),
    *("ps2-mouse", "ps2-kbd"),
}


async def test_it_has_no_rights_and_listens_where_it_was_told(
    house: QemuHouse, hypervisor: QemuHypervisor, free_ports: list[int]
) -> None:
    ports = free_ports[:2]
    forwards = (Forward(ports[0], 22), Forward(ports[1], 80))
    machine = house.machine(seed=SeedContent("debian", "SECRET"), forwards=forwards)
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    await hypervisor.resume(machine.uid)
    assert_confined(process.pid, run_as=machine.run_as)
    assert_listens_only_on(process.pid, *ports)
    assert_private(house.paths.instance(machine.uid))
    _assert_says_nothing(process.pid, str(house.paths.root), "SECRET", "PRIVATE KEY")


def _assert_says_nothing(pid: int, *secrets: str) -> None:
    for source in ("cmdline", "environ"):
        said = Path(f"/proc/{pid}/{source}").read_bytes().decode()
        assert not [secret for secret in secrets if secret in said]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's QEMU")
async def test_its_user_cannot_open_a_single_file_of_the_state(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    await hypervisor.spawn(machine)
    instance = house.paths.instance(machine.uid)
    for path in (instance.disk, instance.qmp_socket, house.paths.root, machine.base.path):
        assert _refused(machine.run_as, path), path


def _refused(run_as: int | None, path: Path) -> bool:
    words = [
        "setpriv",
        f"--reuid={run_as}",
        f"--regid={run_as}",
        "--clear-groups",
        "ls",
        str(path) + "/.",
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return "Permission denied" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process of another user")
async def test_a_stranger_with_the_words_of_a_machine_is_none(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    words = ["-name", f"{mark(house.state_id)}web", "-uuid", machine.uid]
    with pretending(60_999, words), pretending(RUN_AS, words) as same_user:
        await eventually(lambda: len(hypervisor.scan()) == 1, "one of both is believed")
        assert hypervisor.scan()[0].process.pid == same_user


@contextmanager
def pretending(uid: int, words: list[str]) -> Iterator[int]:
    """A process of the user `uid` that was started with these words."""
    command = [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "sh",
        "-c",
        "read line",
        "sh",
        *words,
    ]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        while Path(f"/proc/{child.pid}/comm").read_text() != "sh\n":
            assert child.poll() is None
        yield child.pid
    finally:
        child.communicate(b"\n")


async def test_it_has_no_device_that_was_not_asked_for(
    house: QemuHouse, hypervisor: QemuHypervisor
) -> None:
    machine = house.machine(seed=SeedContent("debian", None))
    await hypervisor.prepare(machine)
    await hypervisor.spawn(machine)
    async with connected(house.paths.instance(machine.uid).metrics_socket) as client:
        tree = await client.say("info qtree")
        pci = await client.say("info pci")
    assert set(re.findall(r"dev: ([\w-]+)", tree)) <= ALLOWED
    assert not re.search(r"VGA|USB|Audio", pci)


async def test_a_monitor_that_is_told_to_run_a_program_dies_instead(
    house: QemuHouse, hypervisor: QemuHypervisor, tmp_path: Path
) -> None:
    machine = house.machine()
    await hypervisor.prepare(machine)
    process = await hypervisor.spawn(machine)
    async with connected(house.paths.instance(machine.uid).metrics_socket) as client:
        with suppress(QMPError):
            await client.ask("migrate", uri=f"exec:touch {tmp_path}/evil; cat > /dev/null")
    await eventually(lambda: not hypervisor.alive(machine.uid, process), "the filter ended it")
    await eventually(lambda: hypervisor.exit_of(machine.uid), "its end was told")
    told = hypervisor.exit_of(machine.uid)
    assert told is not None
    assert told.text.startswith("killed by SIGSYS")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["console.log", "qemu.log", "disk.qcow2", "efivars.fd", "qemu.pid"]
)
async def test_a_planted_link_is_not_followed(
    house: QemuHouse, hypervisor: QemuHypervisor, tmp_path: Path, name: str
) -> None:
    machine = house.machine(firmware="uefi")
    await hypervisor.prepare(machine)
    target, place = tmp_path / "target", house.paths.instance(machine.uid).directory / name
    theirs = place.read_bytes() if place.exists() else b"theirs"
    target.write_bytes(theirs)
    place.unlink(missing_ok=True)
    place.symlink_to(target)
    if name == "qemu.log":  # put aside, as any older log is
        await hypervisor.spawn(machine)
    else:
        with pytest.raises(StartFailed, match="symbolic"):
            await hypervisor.spawn(machine)
    assert target.read_bytes() == theirs


@pytest.mark.parametrize("board", ["pc", "q35"])
@pytest.mark.parametrize("bus", ["ide", "scsi", "virtio"])
async def test_every_board_takes_the_seed_on_every_bus(
    house: QemuHouse, hypervisor: QemuHypervisor, board: str, bus: str
) -> None:
    machine = house.machine(machine=board, seed_bus=bus, seed=SeedContent("debian", None), cpus=2)
    await hypervisor.prepare(machine)
    await hypervisor.spawn(machine)
    assert hypervisor.view(machine.uid).state is RunState.INERT


@pytest.mark.parametrize("board", ["pc", "q35"])
async def test_uefi_writes_to_its_own_variables(
    house: QemuHouse, hypervisor: QemuHypervisor, board: str
) -> None:
    machine = house.machine(machine=board, firmware="uefi", memory=128 << 20)
    await hypervisor.prepare(machine)
    variables = house.paths.instance(machine.uid).firmware_variables
    fresh = variables.read_bytes()
    process = await hypervisor.spawn(machine)
    await hypervisor.resume(machine.uid)
    await eventually(
        lambda: variables.read_bytes() != fresh, "the firmware has saved a variable", 40
    )
    assert_confined(process.pid, run_as=machine.run_as)
    mine = house.paths.instance(machine.uid)
    assert_private(mine)
    assert open_files(process.pid) == {
        str(mine.disk): True,
        str(machine.base.path): False,
        str(firmware.find(machine.machine).code): False,
        str(variables): True,
        str(mine.console_log): True,
        str(mine.qemu_log): True,
        str(mine.pid_file): False,
    }
    await hypervisor.stop(machine.uid, process, 0.0)
    saved = variables.read_bytes()
    await hypervisor.prepare(machine)
    assert variables.read_bytes() == saved
