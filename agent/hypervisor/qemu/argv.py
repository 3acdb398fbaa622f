"""Writes QEMU's command line for one machine. Pure: the same machine and descriptors, the same words.

It refuses to splice: a name, a path or an address reaches QEMU as JSON, as a number, or not at all. Files are numbers
of open descriptors (`-add-fd`), so that no path of the host stands on the command line, where everybody can read it,
and QEMU can run as a user who may not open a single one of them.

What is fixed, and why (qemu-system(1), QEMU 7.2):

- `-S` starts inert: not one instruction of the guest runs before `cont`.
- `-action shutdown=pause` keeps the process of a guest that powered itself off, `panic=pause` that of one that
  panicked, so that an agent that was away can still see which it was. A reset resets.
- the base's node says `"backing": null`: no header of an image names a file that is then opened.
- all four groups of the sandbox are denied. `spawn=deny` and `-daemonize`, `elevateprivileges=deny` and `-runas` end in
  SIGSYS on 7.2, which is why another program changes the user first (see `process`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from agent.hypervisor.api import TCG_BUFFER, Machine
from state.ids import Uid
from state.spec.resolved import Forward

DEFAULT_QEMU = "qemu-system-x86_64"
KVM = Path("/dev/kvm")
ROOT_NODE, SEED_NODE = "root", "seed"
_MARK = "guest=holdfast/"
NETDEV = "net"

TCG_CPU = "qemu64,svm=off,ssse3=on,sse4.1=on,sse4.2=on,popcnt=on,rdrand=on"
"""x86-64-v2 and entropy. A Debian guest gets to its login prompt in 17.5 s, with `max` in 21.5 s, with `Nehalem`, an
Intel part whose kernels isolate their page tables, in 24 s."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The numbers of the open files that QEMU inherits; `control`, `metrics` and `console` are listening sockets."""

    disk: int
    base: int
    console_log: int
    control: int
    metrics: int
    console: int
    seed: int | None = None
    firmware: int | None = None
    variables: int | None = None


def mark(state_id: str) -> str:
    """What stands at the beginning of `-name` for every machine of the state directory `state_id`, a UUID."""
    return f"{_MARK}{UUID(state_id)}/"


def marked_state(words: list[str]) -> str | None:
    """The id of the state directory that the machine of this command line says it belongs to."""
    name = dict(pairwise(words)).get("-name", "")
    try:
        told = str(UUID(name.removeprefix(_MARK).partition("/")[0]))
    except ValueError:
        return None
    return told if name.startswith(mark(told)) else None


def marked_uid(words: list[str], state_id: str) -> Uid | None:
    """The uid of the machine whose command line this is, if it belongs to the state directory `state_id`."""
    pairs = dict(pairwise(words))
    if not pairs.get("-name", "").startswith(mark(state_id)):
        return None
    try:
        uid = Uid(str(UUID(pairs.get("-uuid", ""))))
    except ValueError:
        return None
    return uid if uid == pairs["-uuid"] else None


def hostfwd(forward: Forward) -> str:
    """`tcp:ADDRESS:PORT-:PORT`, from a parsed address and two checked numbers alone. Raises ValueError.

    This syntax also carries `guestfwd=…-cmd:`, which runs a program on the host: no text may reach it unparsed.
    """
    host, guest = _port(forward.host), _port(forward.guest)
    return f"tcp:{IPv4Address(forward.address)}:{host}-:{guest}"


def _port(number: int) -> int:
    if not 0 < int(number) < 65536:
        raise ValueError(f"{number} is no TCP port")
    return int(number)


def command(
    machine: Machine, fds: Descriptors, state_id: str, qemu: str = DEFAULT_QEMU
) -> list[str]:
    """The whole command line. Raises ValueError for a uid that is no UUID, an address or a port that is none."""
    name = machine.name.replace(",", ",,")
    return [
        qemu,
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
        *("-name", f"{mark(state_id)}{name}", "-uuid", str(UUID(machine.uid))),
        *("-S", "-action", "reboot=reset,shutdown=pause,panic=pause", "-sandbox", SANDBOX),
        *_board(machine),
        *_monitors(fds),
        *_disks(machine, fds),
        *_devices(machine),
    ]


def _board(machine: Machine) -> Iterator[str]:
    options = f"{machine.machine},acpi=on,usb=off,vmport=off,dump-guest-core=off,mem-merge=off"
    if machine.firmware == "uefi":
        options += ",pflash0=firmware,pflash1=variables"
    yield from ("-machine", options)
    if machine.accelerator == "kvm":
        yield from ("-accel", "kvm", "-cpu", "host")
    else:
        yield from ("-accel", f"tcg,thread=multi,tb-size={TCG_BUFFER >> 20}", "-cpu", TCG_CPU)
    yield from ("-smp", f"{int(machine.cpus)},sockets=1,cores={int(machine.cpus)},threads=1")
    yield from ("-m", f"{int(machine.memory)}b", "-boot", "strict=on")


def _monitors(fds: Descriptors) -> Iterator[str]:
    """Two monitors, since one serves a single client at a time, and the serial line with its log."""
    yield from ("-chardev", f"socket,id=control,fd={fds.control},server=on,wait=off")
    yield from ("-mon", "chardev=control,mode=control")
    yield from ("-chardev", f"socket,id=metrics,fd={fds.metrics},server=on,wait=off")
    yield from ("-mon", "chardev=metrics,mode=control")
    log, logged = _descriptor(4, fds.console_log)
    yield from log
    console = f"socket,id=console,fd={fds.console},server=on,wait=off"
    yield from ("-chardev", f"{console},logfile={logged},logappend=on")
    yield from _json("-device", driver="isa-serial", chardev="console")


def _disks(machine: Machine, fds: Descriptors) -> Iterator[str]:
    base, base_file = _descriptor(1, fds.base)
    # Only qcow2 has a header that could name another file.
    closed: dict[str, Any] = {"backing": None} if machine.base.format == "qcow2" else {}
    file = {"driver": "file", "filename": base_file, "read-only": True}
    node = {"node-name": "base", "read-only": True, "driver": machine.base.format, "file": file}
    yield from (*base, *_json("-blockdev", **node, **closed))

    disk, disk_file = _descriptor(2, fds.disk)
    file = {"driver": "file", "filename": disk_file, "discard": "unmap"}
    root = {
        "node-name": ROOT_NODE,
        "driver": "qcow2",
        "discard": "unmap",
        "backing": "base",
        "file": file,
    }
    yield from (*disk, *_json("-blockdev", **root))
    yield from _json(
        "-device", driver="virtio-blk-pci", id="root-disk", drive=ROOT_NODE, bootindex=0
    )

    if fds.seed is not None:
        yield from _raw(3, fds.seed, SEED_NODE, writable=False)
        yield from _seed_device(machine)
    if fds.firmware is not None and fds.variables is not None:
        yield from _raw(5, fds.firmware, "firmware", writable=False)
        yield from _raw(6, fds.variables, "variables", writable=True)


def _seed_device(machine: Machine) -> Iterator[str]:
    match machine.seed_bus:
        case "ide":
            # OVMF enables the controller only where it is to look for something to boot there, and Linux does not.
            boot: dict[str, Any] = {"bootindex": 1} if machine.firmware == "uefi" else {}
            yield from _json("-device", driver="ide-cd", drive=SEED_NODE, **boot)
        case "scsi":
            yield from _json("-device", driver="virtio-scsi-pci", id="scsi")
            yield from _json("-device", driver="scsi-cd", bus="scsi.0", drive=SEED_NODE)
        case "virtio":
            yield from _json("-device", driver="virtio-blk-pci", drive=SEED_NODE)


def _devices(machine: Machine) -> Iterator[str]:
    network: dict[str, Any] = {
        "type": "user",
        "id": NETDEV,
        "ipv6": False,
        "restrict": not machine.egress,
    }
    if machine.forwards:
        network["hostfwd"] = [{"str": hostfwd(forward)} for forward in machine.forwards]
    yield from _json("-netdev", **network)
    # An empty `romfile`: a machine boots from its disk or not at all.
    yield from _json(
        "-device", driver="virtio-net-pci", netdev=NETDEV, mac=_mac(machine.uid), romfile=""
    )
    yield from _json("-object", **{"qom-type": "rng-builtin", "id": "entropy"})
    yield from _json("-device", driver="virtio-rng-pci", rng="entropy")
    balloon = {"driver": "virtio-balloon-pci", "id": "balloon", "free-page-reporting": True}
    yield from _json("-device", **balloon)
    yield from _json("-device", driver="pvpanic")


def _mac(uid: Uid) -> str:
    """An address of QEMU's own range, with the last three bytes of the uid."""
    return "52:54:00:" + UUID(uid).bytes[-3:].hex(":")


def _raw(number: int, descriptor: int, node: str, *, writable: bool) -> Iterator[str]:
    words, filename = _descriptor(number, descriptor)
    file = {"driver": "file", "filename": filename, "read-only": not writable}
    yield from words
    yield from _json(
        "-blockdev", **{"node-name": node, "driver": "raw", "read-only": not writable, "file": file}
    )


def _descriptor(number: int, descriptor: int) -> tuple[list[str], str]:
    """The words that put an inherited descriptor into set `number`, and the name by which QEMU then opens it."""
    return ["-add-fd", f"fd={int(descriptor)},set={int(number)}"], f"/dev/fdset/{int(number)}"


def _json(option: str, **values: object) -> list[str]:
    return [option, _compact(values)]


def _compact(values: Mapping[str, object]) -> str:
    return json.dumps(values, separators=(",", ":"))
