"""What an image may ask of its machine, each kind booted: firmware, board, the bus of the seed, the format of the disk.

What was booted is told from inside the guest. Any two values that can meet do so in some vm here, or in those of the
other tests, whose image maps leave all of this out; not every combination does.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.site import Site
from tests.e2e.test_reboot import boot, items, power_off, up

pytestmark = [pytest.mark.guest, pytest.mark.qemu, pytest.mark.timeout(500)]

MEMORY = "192MiB"
"""The tiny guest needs 160 where UEFI starts it."""

IMAGES = """\
api: holdfast/v1
kind: images
name: default
images:
"""
IMAGE = """\
  {name}:
    {{source: "{source}", ssh_user: tiny, format: {disk}, firmware: {firmware}, machine: {board}, seed_bus: {bus}}}
"""


@dataclass(frozen=True)
class Kind:
    """What an image says of itself."""

    firmware: str
    board: str
    bus: str
    disk: str


KINDS = {
    "a": Kind("uefi", "pc", "ide", "raw"),
    "b": Kind("bios", "q35", "scsi", "raw"),
    "c": Kind("uefi", "pc", "scsi", "qcow2"),
    "d": Kind("bios", "pc", "virtio", "raw"),
    "e": Kind("uefi", "q35", "virtio", "qcow2"),
}
"""No IDE on q35: the driver of its controller, AHCI, is no part of Debian's kernels for clouds."""

BOARDS = {
    "Standard PC (i440FX + PIIX, 1996)": "pc",
    "Standard PC (Q35 + ICH9, 2009)": "q35",
}
ASK = """\
if [ -d /sys/firmware/efi/efivars ]; then echo uefi; else echo bios; fi
cat /sys/class/dmi/id/product_name
readlink -f "/sys/class/block/$(cat /run/seed-device)"
"""
VARIABLE = "/sys/firmware/efi/efivars/Holdfast-6f9c8f3e-0b0f-4c3a-9d2e-2f1f5f1d7a11"
PERSISTENT = r"\007\000\000\000"
"""Attributes of a variable: kept without power, for the loader and for the system (Linux, filesystems/efivarfs)."""


def describe(place: Site, *names: str) -> None:
    """An image map of these kinds. The raw disk lies in the tree."""
    raw = place.desired / "tiny.img"
    if not raw.exists():
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
        subprocess.run([*convert, str(place.image), str(raw)], check=True)
    text = IMAGES
    for name in names:
        kind = KINDS[name]
        source = raw if kind.disk == "raw" else place.image
        text += IMAGE.format(name=name, source=source, **vars(kind))
    place.write("images.yaml", text)


def told_inside(place: Site, name: str) -> tuple[str, str, str]:
    """Firmware, board and the bus of the seed, as the guest sees them."""
    firmware, board, device = place.ssh(name, ASK).splitlines()
    bus = "scsi" if "/virtio" in device and "/host" in device else ""
    bus = bus or ("ide" if "/ata" in device else "virtio" if "/virtio" in device else device)
    return firmware, BOARDS.get(board, board), bus


def test_guests_boot_from_either_firmware_board_and_format_and_see_their_seed_on_every_bus(
    tiny: Site,
) -> None:
    """Sabotage: leave a field of the image out on the way to QEMU's command line."""
    names = ("a", "b", "c", "d")
    describe(tiny, *names)
    for name in names:
        tiny.vm(name, memory=MEMORY, more=f"image: {name}")
    with tiny.agent():
        for name in names:
            tiny.ready(name)
        kinds = {name: KINDS[name] for name in names}
        assert {name: told_inside(tiny, name) for name in names} == {
            name: (kind.firmware, kind.board, kind.bus) for name, kind in kinds.items()
        }
        stored = json.loads(tiny.call("images ls", "-o", "json").stdout)
        assert {name: one["format"] for one in stored for name in one["used_by"]} == {
            name: kind.disk for name, kind in kinds.items()
        }


def test_variables_of_the_firmware_outlive_agent_and_host_and_not_the_machine(tiny: Site) -> None:
    """Sabotage: begin with fresh variables at each start; keep them beside the name."""
    boot(tiny)
    describe(tiny, "e")
    tiny.vm("e", memory=MEMORY, more="image: e")
    agent = tiny.start()
    try:
        tiny.until(lambda: up(tiny, "e"), "it is ready", every=0.5)
        first = items(tiny)["e"]
        assert told_inside(tiny, "e") == ("uefi", "q35", "virtio")
        tiny.ssh("e", f"printf '{PERSISTENT}kept' >{VARIABLE}")
        agent.kill()
        agent.wait()
        agent = tiny.start()
        tiny.until(lambda: "Adopted" in said(tiny), "the next agent has it", every=0.5)
        assert items(tiny)["e"]["pid"] == first["pid"]
    finally:
        power_off(tiny, agent)
    boot(tiny)
    with tiny.agent():
        tiny.until(lambda: up(tiny, "e"), "it is back", every=0.5)
        assert items(tiny)["e"]["uid"] == first["uid"]
        assert tiny.ssh("e", f"tail -c 4 {VARIABLE}") == "kept"
        tiny.vm("e", memory="200MiB", more="image: e")
        tiny.until(lambda: replaced(tiny, first), "it is replaced", every=0.5)
        assert tiny.ssh("e", f"ls {VARIABLE} 2>&1 || true").endswith("No such file or directory\n")
        variables = [path.parent.name for path in tiny.paths.instances.glob("*/efivars.fd")]
        assert variables == [items(tiny)["e"]["uid"]]


def said(place: Site) -> set[str]:
    """What events were about."""
    return {str(event["reason"]) for event in place.events()}


def replaced(place: Site, old: dict[str, object]) -> bool:
    """Whether another instance of the vm is ready."""
    return items(place)["e"]["uid"] != old["uid"] and up(place, "e")


UEFI_STILL = """\
api: holdfast/v1
kind: images
name: default
default_label: still
images:
  still: {{source: "{root}/still.img", format: raw, nocloud: false, firmware: uefi}}
"""


def test_a_host_without_firmware_is_told_what_to_install_and_starts_the_vm_when_it_has_some(
    still: Site,
) -> None:
    still.write("images.yaml", UEFI_STILL.format(root=still.image.parent))
    still.vm("web", more="stop_timeout: 1s")
    within = [
        "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /usr/share/OVMF && exec "$@"', "sh",
    ]  # fmt: skip
    tried = subprocess.run([*within, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no directory can be hidden here: {tried.stderr}")
    still.within = within
    with still.agent():
        still.until(lambda: still.item("web").get("reason") == "BackOff", "its start has failed")
        message = still.item("web")["message"]
        assert re.match(
            r"web starts with UEFI: this host has no UEFI firmware for a pc machine \(install it: .*ovmf",
            message,
        ), message
        assert still.processes() == {}
    still.within = []
    with still.agent():
        still.ready("web")


ORCHESTRATORS = """\
default_label: appliance
aliases: {{latest: stable, stable: appliance}}
sizes: {{small: {{cpu: 2, ram_mb: 64}}}}
images:
  appliance:
    source: "https://images.example/appliance.img.zst"
    local_path: "{copy}"
    decompress: zstd
    format: raw
    nocloud: false
    defaults: {{cpu: 1, ram_mb: 96, disk_gb: 1}}
"""


def test_an_orchestrators_map_outside_the_tree_serves_and_its_copies_need_no_network(
    still: Site,
) -> None:
    """Sabotage: fetch the source first."""
    (still.desired / "images.yaml").unlink()
    images = still.state.parent / "orchestrator.yaml"
    images.write_text(ORCHESTRATORS.format(copy=still.image))
    still.write("web.yaml", "{api: holdfast/v1, kind: vm, name: web, image: latest, size: small}")
    plan = still.call("plan", *still.source()[:-2], "--images", str(images)).stdout.decode()
    source = "https://images.example/appliance.img.zst"
    assert f"fetch image appliance from {still.image.as_uri()} or else {source}\n" in plan
    with still.agent("--images", str(images)):
        item = still.ready("web")
        assert item["image"] == "appliance"
        line = Path(f"/proc/{item['pid']}/cmdline").read_text().split("\0")
        options = dict(pairwise(line))
        assert options["-smp"].startswith("2,")
        assert options["-m"] == f"{64 << 20}b"
        info = ["qemu-img", "info", "-U", "--output=json"]
        disk = still.paths.instance(item["uid"]).disk
        told = subprocess.run([*info, str(disk)], capture_output=True, check=True)
        assert json.loads(told.stdout)["virtual-size"] == 1 << 30
