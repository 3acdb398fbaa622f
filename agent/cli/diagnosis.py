"""What holdfast needs of a host, looked at one thing after the other: well, or what to do.

Nothing is changed by looking, and nothing that is wrong with one thing keeps another from being looked at.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from agent.config import Settings
from agent.errors import HoldfastError
from agent.host import LinuxHost, ephemeral_ports, memory, run_as_range
from agent.hypervisor.api import Accelerator
from agent.hypervisor.qemu import accel, fence
from agent.hypervisor.qemu.argv import KVM
from agent.hypervisor.qemu.confine import DESCRIPTORS, LOCKED_MEMORY, SMALLEST_FILE_LIMIT
from agent.paths import StatePaths
from agent.policy import ENOUGH, ssh_ports
from agent.statedir import UNSEEN, check_private, holder
from state.observed import DISK_FLOOR

Verdict = Literal["ok", "warning", "bad"]

_AS_OLD_AS_THIS = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Unix time that no host shows whose clock is right: this program is younger."""
_AHEAD = 300.0
"""Seconds by which a file may be newer than the clock, as on another host's disk."""
_LITTLE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `bad`: VMs cannot be kept like this; `warning`: they can, with what is said there.
    `hint` says what to do; empty for what is well."""

    check: str
    verdict: Verdict
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at: a host, a state directory on it, and the settings that its agent would have. `now`: Unix
    time, as this host has it."""

    state: StatePaths
    settings: Settings
    qemu: str
    now: float


def findings(patient: Patient) -> Iterator[Finding]:
    """One or more for each thing, as soon as it was looked at."""
    for check, look in _CHECKS.items():
        try:
            yield look(patient)
        except HoldfastError as error:
            yield Finding(check, "bad", error.message, error.hint)
        except OSError as error:
            yield Finding(check, "bad", f"it cannot be looked at: {error}")


def _qemu(patient: Patient) -> Finding:
    asyncio.run(accel.build_of(patient.qemu))
    found = shutil.which(patient.qemu)
    told = _first_line([str(found), "--version"])
    return Finding("qemu", "ok", f"{told} ({found})")


def _programs(_: Patient) -> Finding:
    needed = {
        "setpriv": "util-linux", "prlimit": "util-linux", "qemu-img": "qemu-utils",
    }  # fmt: skip
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({needed[name] for name in missing}))
        what = f"there is no {' and no '.join(missing)}"
        return Finding("programs", "bad", what, f"install {packages}")
    return Finding("programs", "ok", f"{', '.join(needed)} are there")


def _accelerator(patient: Patient) -> Finding:
    """Really tried: that `/dev/kvm` is there, or opens, proves nothing."""
    evidence = asyncio.run(accel.measure(patient.qemu))
    said = patient.settings.accel
    wanted: Accelerator | None = said if said in ("kvm", "tcg") else None  # type: ignore[assignment]
    used = wanted or evidence.choice
    message = f"guests run under {used.upper()}: {evidence.why}"
    if used == "kvm" and evidence.kvm_seconds is None:
        return Finding("accelerator", "bad", message, "say --accel auto")
    if used == "kvm":
        return Finding("accelerator", "ok", message)
    if not KVM.exists():
        hint = "turn virtualization on in the firmware, or let the host of this VM nest it"
    elif evidence.kvm_seconds is None and "Permission denied" in evidence.why:
        hint = f"let this user into the group of {KVM}, and that group read and write it"
    else:
        hint = "nothing is to be done: guests are emulated, and slow for it"
    return Finding("accelerator", "warning", message, hint)


def _git(patient: Patient) -> Finding:
    wanted = patient.settings.git
    if (found := shutil.which("git")) is not None:
        over_ssh = wanted is not None and not wanted.startswith(("http", "file", "/"))
        if over_ssh and shutil.which("ssh") is None:
            hint = "install openssh-client"
            return Finding("git", "bad", f"there is no ssh for {wanted}", hint)
        return Finding("git", "ok", f"{_first_line([found, '--version'])} ({found})")
    if wanted is not None:
        return Finding("git", "bad", "there is no git, and documents come from it", "install git")
    return Finding("git", "warning", "there is no git: `run --git` does not work", "install git")


def _state(patient: Patient) -> Finding:
    root = patient.state.root
    if not root.exists():
        above = next(path for path in root.parents if path.exists())
        return Finding("state", "ok", f"{root} is not there yet, and will be made in {above}")
    check_private(root)
    pid = holder(patient.state)
    who = "no agent holds it" if pid is None else f"the agent with pid {pid} holds it"
    if pid == UNSEEN:
        who = "an agent that cannot be seen from here holds it"
    return Finding("state", "ok", f"{root} is this user's alone; {who}")


def _disk(patient: Patient) -> Finding:
    root = patient.state.root
    there = next(path for path in (root, *root.parents) if path.exists())
    usage = shutil.disk_usage(there)
    floor = patient.settings.disk_floor
    floor = DISK_FLOOR if floor is None else floor
    message = f"{_gib(usage.free)} of {_gib(usage.total)} are free below {there}"
    if usage.free < floor:
        less = f"{message}, less than the {_gib(floor)} below which nothing begins"
        return Finding("disk", "bad", less, "make room, or say --disk-floor")
    return Finding("disk", "ok", message)


def _memory(patient: Patient) -> Finding:
    total = memory()
    free = min(total, LinuxHost(patient.state.root).free_memory({}) or 0)
    message = f"{_gib(free)} of {_gib(total)} are free"
    if free < _LITTLE_MEMORY:
        return Finding("memory", "warning", message, "keep guests small, or end something else")
    return Finding("memory", "ok", message)


def _limits(_: Patient) -> Finding:
    """Ours bound those that QEMU starts with: a hard limit is raised by nobody but root with all its rights."""
    needed = {
        "open files (RLIMIT_NOFILE)": (resource.RLIMIT_NOFILE, DESCRIPTORS),
        "locked memory (RLIMIT_MEMLOCK)": (resource.RLIMIT_MEMLOCK, LOCKED_MEMORY),
        "the size of a file (RLIMIT_FSIZE)": (resource.RLIMIT_FSIZE, SMALLEST_FILE_LIMIT),
    }
    low = [
        f"{what} is {most}, and a VM needs {least}"
        for what, (which, least) in needed.items()
        if (most := resource.getrlimit(which)[1]) != resource.RLIM_INFINITY and most < least
    ]
    if low:
        hint = "raise the hard limit: in a unit, with ulimit -H, or in /etc/security/limits.conf"
        return Finding("limits", "bad", f"the limit of {'; of '.join(low)}", hint)
    return Finding("limits", "ok", "a VM gets the open files, locked memory and disk it needs")


def _clock(patient: Patient) -> Finding:
    shown = datetime.fromtimestamp(patient.now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    hint = "set it, and keep it with NTP: certificates and time stamps go by it"
    if patient.now < _AS_OLD_AS_THIS:
        return Finding("clock", "bad", f"it shows {shown}, before this program was written", hint)
    database = patient.state.database
    if database.exists() and (ahead := database.stat().st_mtime - patient.now) > _AHEAD:
        message = f"it shows {shown}; {database.name} was written {ahead:.0f} s after that"
        return Finding("clock", "warning", message, hint)
    return Finding("clock", "ok", f"it shows {shown}")


def _ports(_: Patient) -> Finding:
    ephemeral = ephemeral_ports()
    leased = ssh_ports(ephemeral)
    overlap = range(max(leased.start, ephemeral.start), min(leased.stop, ephemeral.stop))
    message = f"SSH of VMs is leased from {leased.start} to {leased.stop - 1}"
    if overlap:
        said = "outgoing connections take theirs from there, too"
        hint = f"leave {ENOUGH} ports free: sysctl net.ipv4.ip_local_port_range"
        return Finding("ports", "warning", f"{message}, and {said}", hint)
    return Finding("ports", "ok", message)


def _users(_: Patient) -> Finding:
    uids = run_as_range()
    if uids is None:
        said = "every VM runs as this user: what breaks out of one reaches the files of all"
        return Finding("users", "warning", said, "run the agent as root, which gives each its own")
    return Finding("users", "ok", f"each VM gets a user of its own, from {uids.start} on")


def _loopback(patient: Patient) -> Finding:
    """Where an agent runs that can be seen, what stands; else what could."""
    why = fence.put_up(run_as_range(), try_only=True)
    hint = "say network: {egress: false} for guests that you do not trust"
    if why is None and not holder(patient.state):
        can = "guests can be fenced off from what listens on this host alone"
        return Finding("loopback", "ok", can)
    if why is None and fence.listed() is not None:
        are = "guests are fenced off from what listens on this host alone"
        return Finding("loopback", "ok", are)
    if why is None and patient.settings.loopback == "open":
        why, hint = "the agent was told --loopback open", "start it with --loopback fence"
    elif why is None:
        why = f"there is no table {fence.TABLE} of nftables, which something may have flushed"
        hint = "the agent puts it up when it next looks; events with LoopbackOpen say why it cannot"
    said = f"a guest reaches what listens on 127.0.0.1 of this host, through its gateway 10.0.2.2: {why}"
    return Finding("loopback", "warning", said, hint)


_CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "qemu": _qemu,
    "programs": _programs,
    "accelerator": _accelerator,
    "state": _state,
    "disk": _disk,
    "memory": _memory,
    "limits": _limits,
    "users": _users,
    "ports": _ports,
    "loopback": _loopback,
    "clock": _clock,
    "git": _git,
}


def _first_line(command: list[str]) -> str:
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} does not answer") from None
    if told.returncode != 0:
        raise OSError(f"{command[0]} does not run: {told.stderr.strip()[:200]}")
    return told.stdout.partition("\n")[0]


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
