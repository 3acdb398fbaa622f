"""QEMU's command line: what stands on it, and what no text can put there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hypervisor.api import TCG_BUFFER, BaseImage, Machine, SeedContent
from agent.hypervisor.qemu.argv import Descriptors, command, hostfwd, mark, marked_uid
from state.ids import Digest, Name, Uid, instance_uid
from state.spec.resolved import Forward
from tests.builders import STATE_ID

UID = instance_uid(STATE_ID, "vm", "web", 1)
BASE = BaseImage(Path("/images/base"), "qcow2", 1 << 30, Digest("sha256:" + "1" * 64))
MACHINE = Machine(
    uid=UID,
    name=Name("web"),
    generation=1,
    base=BASE,
    cpus=2,
    memory=512 << 20,
    disk=None,
    accelerator="tcg",
    seed=SeedContent("debian", "#cloud-config\n"),
    forwards=(Forward(40022, 22), Forward(8080, 80, "127.0.0.2")),
)
FDS = Descriptors(disk=3, base=4, seed=5, console_log=6, control=7, metrics=8, console=9)


def words(machine: Machine = MACHINE, fds: Descriptors = FDS) -> list[str]:
    return command(machine, fds, STATE_ID)


def values(option: str, line: list[str]) -> Iterator[str]:
    return (line[at + 1] for at, word in enumerate(line) if word == option)


def devices(line: list[str]) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values("-device", line)]


def nodes(line: list[str]) -> dict[str, dict[str, Any]]:
    parsed = (json.loads(value) for value in values("-blockdev", line))
    return {node["node-name"]: node for node in parsed}


def shape(line: list[str]) -> list[object]:
    """Everything about a command line but the text of its strings."""

    def keys(value: object) -> object:
        match value:
            case dict():
                return {key: keys(inner) for key, inner in value.items()}
            case list():
                return [keys(inner) for inner in value]
            case _:
                return type(value).__name__

    shaped: list[object] = []
    for word in line[1:]:
        if word.startswith("{"):
            shaped.append(keys(json.loads(word)))
        elif word.startswith("-"):
            shaped.append(word)
        else:
            # QemuOpts: a doubled comma is text, a single one begins an option.
            options = word.replace(",,", "").split(",")
            shaped.append([option.partition("=")[0] if "=" in option else "" for option in options])
    return shaped


hostile = st.one_of(
    st.text(min_size=1, max_size=40),
    st.text(alphabet=",=:;-{}\"'/\\ \n\t\x00\u202e%$`", min_size=1, max_size=20),
    st.sampled_from(
        ["a,process=evil", "x,,y=z", "-sandbox", "file=/etc/shadow", '{"driver":"x"}', "a\nb"]
    ),
)


@given(name=hostile, login=hostile, user_data=hostile, path=hostile, record=hostile)
def test_no_text_changes_the_structure(
    name: str, login: str, user_data: str, path: str, record: str
) -> None:
    evil = replace(
        MACHINE,
        name=Name(name),
        seed=SeedContent(login, user_data),
        base=replace(BASE, path=Path("/images") / path.replace("\0", "")),
        record=record,
    )
    assert shape(words(evil)) == shape(words())


@given(text=hostile)
def test_a_name_reaches_qemu_as_one_escaped_value(text: str) -> None:
    (value,) = values("-name", words(replace(MACHINE, name=Name(text))))
    assert value.removeprefix(mark(STATE_ID)).replace(",,", "\0").count(",") == 0
    assert value.removeprefix(mark(STATE_ID)).replace(",,", ",") == text


@given(address=hostile)
def test_an_address_is_an_ipv4_address_or_nothing(address: str) -> None:
    try:
        said = hostfwd(Forward(8080, 80, address))
    except ValueError:
        return
    assert said.count(":") == 3
    assert set(said) <= set("tcp:-.0123456789")


@pytest.mark.parametrize("port", [0, -1, 65536, "80,guestfwd=tcp:10.0.2.100:80-cmd:id"])
def test_a_port_is_a_port_or_nothing(port: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # int() has its own words
        hostfwd(Forward(port, 80))
    with pytest.raises(ValueError):  # noqa: PT011
        hostfwd(Forward(80, port))


def test_a_uid_is_a_uuid_or_nothing() -> None:
    with pytest.raises(ValueError, match="UUID"):
        words(replace(MACHINE, uid=Uid("web,process=evil")))


def test_no_path_of_the_host_and_nothing_of_the_seed_is_said() -> None:
    line = " ".join(words(replace(MACHINE, seed=SeedContent("debian", "SECRET"), record="SECRET")))
    assert "/images" not in line
    assert "SECRET" not in line


def test_every_file_is_an_inherited_descriptor() -> None:
    line = words()
    sets = dict(pair.split(",") for pair in values("-add-fd", line))
    assert sets == {"fd=4": "set=1", "fd=3": "set=2", "fd=5": "set=3", "fd=6": "set=4"}
    files = [node["file"] for node in nodes(line).values()]
    assert {file["driver"] for file in files} == {"file"}
    assert {file["filename"] for file in files} == {"/dev/fdset/1", "/dev/fdset/2", "/dev/fdset/3"}


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_no_header_names_a_file_that_is_opened(kind: Any) -> None:
    found = nodes(words(replace(MACHINE, base=replace(BASE, format=kind))))
    assert found["root"]["backing"] == "base"
    assert found["base"]["driver"] == kind
    assert found["base"].get("backing", "raw has none") == (
        None if kind == "qcow2" else "raw has none"
    )
    assert found["base"]["read-only"] is True
    assert found["base"]["file"]["read-only"] is True
    assert found["seed"]["read-only"] is True
    assert "read-only" not in found["root"]


def test_a_machine_has_these_devices_and_no_other() -> None:
    assert [device["driver"] for device in devices(words())] == [
        "isa-serial",
        "virtio-blk-pci",
        "ide-cd",
        "virtio-net-pci",
        "virtio-rng-pci",
        "virtio-balloon-pci",
        "pvpanic",
    ]
    assert "-nodefaults" in words()
    assert "-no-user-config" in words()


@pytest.mark.parametrize(
    ("bus", "drivers"),
    [("ide", ["ide-cd"]), ("scsi", ["virtio-scsi-pci", "scsi-cd"]), ("virtio", ["virtio-blk-pci"])],
)
def test_the_seed_is_on_the_bus_that_its_image_can_see(bus: Any, drivers: list[str]) -> None:
    found = [device["driver"] for device in devices(words(replace(MACHINE, seed_bus=bus)))]
    assert found[2 : 2 + len(drivers)] == drivers
    assert len(found) == 6 + len(drivers)


def test_an_image_without_seed_has_no_drive_for_it() -> None:
    line = words(fds=replace(FDS, seed=None))
    assert "seed" not in nodes(line)
    assert "ide-cd" not in [device["driver"] for device in devices(line)]


def test_a_machine_starts_inert_confined_and_stays_to_tell_how_its_guest_ended() -> None:
    line = words()
    assert "-S" in line
    assert list(values("-action", line)) == ["reboot=reset,shutdown=pause,panic=pause"]
    (sandbox,) = values("-sandbox", line)
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert not {"-daemonize", "-runas", "-pidfile", "-monitor", "-qmp"} & set(line)


@pytest.mark.parametrize(("egress", "restricted"), [(True, False), (False, True)])
def test_a_guest_without_egress_is_restricted_and_keeps_its_forwards(
    egress: bool, restricted: bool
) -> None:
    (value,) = values("-netdev", words(replace(MACHINE, egress=egress)))
    network = json.loads(value)
    assert network["restrict"] is restricted
    assert network["hostfwd"] == [
        {"str": "tcp:127.0.0.1:40022-:22"},
        {"str": "tcp:127.0.0.2:8080-:80"},
    ]


def test_the_accelerator_brings_its_processor() -> None:
    (accel,) = values("-accel", words())
    assert accel == f"tcg,thread=multi,tb-size={TCG_BUFFER >> 20}"
    line = words(replace(MACHINE, accelerator="kvm"))
    assert list(values("-accel", line)) == ["kvm"]
    assert list(values("-cpu", line)) == ["host"]


def test_uefi_maps_its_code_read_only_and_its_variables_writable() -> None:
    uefi = replace(MACHINE, firmware="uefi", machine="q35")
    line = words(uefi, replace(FDS, firmware=10, variables=11))
    (board,) = values("-machine", line)
    assert board.startswith("q35,")
    assert board.endswith(",pflash0=firmware,pflash1=variables")
    assert nodes(line)["firmware"]["read-only"] is True
    assert nodes(line)["variables"]["read-only"] is False


@pytest.mark.parametrize(("starts", "index"), [("bios", None), ("uefi", 1)])
def test_uefi_looks_at_an_ide_seed_so_that_it_enables_its_controller(
    starts: Any, index: int | None
) -> None:
    found = devices(words(replace(MACHINE, firmware=starts)))
    assert {one["driver"]: one.get("bootindex") for one in found[1:3]} == {
        "virtio-blk-pci": 0,
        "ide-cd": index,
    }


def test_two_machines_have_two_addresses_in_their_network() -> None:
    other = replace(MACHINE, uid=instance_uid(STATE_ID, "vm", "web", 2))
    macs = {
        device["mac"]
        for line in (words(), words(other))
        for device in devices(line)
        if "mac" in device
    }
    assert len(macs) == 2
    assert all(mac.startswith("52:54:00:") for mac in macs)


def test_a_command_line_is_recognised_by_its_own_state_alone() -> None:
    assert marked_uid(["setpriv", *words()], STATE_ID) == UID
    assert marked_uid(words(), "00000000-0000-0000-0000-000000000000") is None
    assert marked_uid([], STATE_ID) is None
    assert marked_uid(["qemu", "-name", mark(STATE_ID) + "web"], STATE_ID) is None
    assert marked_uid(["qemu", "-name", mark(STATE_ID), "-uuid", "nonsense"], STATE_ID) is None
