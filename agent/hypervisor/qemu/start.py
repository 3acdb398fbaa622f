"""Brings one QEMU process into being: its files opened, its words wrapped in its confinement, its child held.

It refuses to wait for QEMU's first word; whoever supervises the process does.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.errors import StartFailed
from agent.hypervisor.api import Machine
from agent.hypervisor.qemu import base, confine, files, logs, process
from agent.hypervisor.qemu.argv import KVM, Descriptors
from agent.hypervisor.qemu.process import Handle
from agent.paths import StatePaths


def started(
    paths: StatePaths, machine: Machine, lock: files.Lock, words: Callable[[Descriptors], list[str]]
) -> Handle:
    """The new process. From its first moment it holds `lock`, so that it is found whatever becomes of us; `words` is
    asked for QEMU's command line. Raises StartFailed."""
    mine = paths.instance(machine.uid)
    try:
        logs.begin(mine.qemu_log)
        with files.opened(paths, machine, lock) as opened:
            base.check(machine.name, machine.base.path, opened.numbers.base)
            command = confinement(machine).wrap(words(opened.numbers))
            pid = process.launch(command, inherit=opened.inherit, output=opened.log)
        held = Handle.hold_child(pid)
        with suppress(OSError):
            files.write_pid(mine, pid)
    except (OSError, ValueError) as error:
        raise StartFailed(f"{machine.name} cannot be started: {told(error)}") from error
    return held


def confinement(machine: Machine) -> confine.Confinement:
    """What the process gets of this host."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    return confine.Confinement(
        run_as=machine.run_as,
        from_root=os.geteuid() == 0,
        groups=process.groups_for(KVM) if machine.accelerator == "kvm" else (),
        file_size=confine.file_size_limit(max(machine.disk or 0, machine.base.virtual_size)),
        open_files=confine.DESCRIPTORS if unlimited else min(most, confine.DESCRIPTORS),
    )


def port_hint(words: str) -> str:
    """What to do when QEMU says that it could not listen on a port."""
    found = re.search(r"host forwarding rule 'tcp:([\d.]+):(\d+)-", words)
    if not found:
        return ""
    address, port = found.groups()
    if int(port) < _root_alone():
        return (
            f"ports below {_root_alone()} are root's alone, and QEMU never runs as root: take a higher one, or let"
            f" everybody have this one (sysctl net.ipv4.ip_unprivileged_port_start={port})"
        )
    return f"something else listens on port {port} by now, or {address} is no address of this host"


def _root_alone() -> int:
    """The first port of this network that takes no right to listen on (ip(7))."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def told(error: Exception) -> str:
    """What happened, and to which file, without the number that Python puts before it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)
