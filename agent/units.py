"""The systemd units of an agent: one runs it and leaves its VMs alone, one takes them down with the host. Pure.

    holdfast.service          the agent. Stopping or restarting it ends no VM: KillMode=process in systemd.kill(5)
holdfast-guests.service   does nothing until it is stopped. Units stop in the reverse order of their start
                          (After= in systemd.unit(5)), so at shutdown its ExecStop powers VMs down before anything
                          ends them or the agent. libvirt-guests.service does the same for libvirt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import BadUsage

AGENT = "holdfast.service"
GUESTS = "holdfast-guests.service"
STATE = Path("/var/lib/holdfast")
_HOMES = ("/home", "/root", "/run/user")
_SHARED = ("/tmp", "/var/tmp")  # noqa: S108 - where documents may lie, not where we write
_PLAIN = re.compile(r"[A-Za-z0-9_@=:,./+~^-]+")
_LEAVING = 600
"""Seconds that an agent gets to finish its steps and a guest to power itself down, beside its jobs' drain timeout."""

CAPABILITIES = (
    "CAP_CHOWN",  # files of VMs belong to their users
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",  # VMs run as users of their own
    "CAP_NET_ADMIN",  # the fence between guests and the host's own addresses
    "CAP_SETGID",
    "CAP_SETPCAP",  # QEMU starts with an empty bounding set
    "CAP_SETUID",
    "CAP_SYS_PTRACE",  # what a QEMU has open, below /proc
    "CAP_SYS_RESOURCE",  # a disk that grows raises a limit
)
"""All that is left of root, each for what stands beside it; and CAP_NET_BIND_SERVICE where a low port asks for it."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is to run. `program` and `state` are absolute; `options` are those of `run`; `reads`: other paths that it
    needs; `system`: root's, not a user's own; `drain`: seconds that jobs get; `home`: it may need homes, too;
    `low_port`: it listens on one below 1024."""

    program: Path
    options: tuple[str, ...]
    state: Path
    reads: tuple[Path, ...]
    system: bool
    drain: float
    home: bool = False
    low_port: bool = False


def word(said: str) -> str:
    """One word of a command line, as systemd.service(5) wants it: quoted, and without what `%`, `$` and backslashes
    mean there. Raises BadUsage for what cannot be written in a unit."""
    return _quoted(said, "\\%$")


def listed(path: Path) -> str:
    """A path in a list of paths, as systemd.syntax(7) wants it: there `$` means nothing. Raises BadUsage as `word`."""
    return _quoted(str(path), "\\%")


def _quoted(said: str, marks: str) -> str:
    """With each of these marks twice, which is how it stands for itself."""
    if not said.isprintable():
        raise BadUsage(f"{said!a} cannot stand in a unit", hint="choose another path or value")
    for mark in marks:
        said = said.replace(mark, mark * 2)
    return said if _PLAIN.fullmatch(said) else '"' + said.replace('"', '\\"') + '"'


def agent_unit(service: Service) -> str:
    """The unit of the agent."""
    command = " ".join(map(word, [*_command(service, "run"), *service.options]))
    home, scope = _home(service), ("multi-user" if service.system else "default")
    settings = [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={command}",
        "# A loop that hangs for so long is ended and begun anew; VMs do not notice.",
        "WatchdogSec=2min",
        "Restart=on-failure",
        "RestartSec=5s",
        "# Options that are wrong stay so.",
        "RestartPreventExitStatus=64",
        "# Choosing an accelerator takes seconds, once for each boot.",
        "TimeoutStartSec=5min",
        f"TimeoutStopSec={_patience(service)}s",
        "# VMs are processes of this unit and outlive it: only the agent is ever signalled.",
        "KillMode=process",
        "OOMPolicy=continue",
        "UMask=0077",
        "LimitNOFILE=65536",
        "TasksMax=infinity",
        *(_system_confinement(service, home) if service.system else _user_confinement()),
    ]
    return _unit(
        "holdfast, which keeps virtual machines as documents say",
        ["Wants=network-online.target", "After=network-online.target", _mounts(service)]
        if service.system
        else [],
        settings,
        f"{scope}.target",
    )


def guests_unit(service: Service) -> str:
    """The unit that powers VMs down when the host goes down."""
    command = " ".join(map(word, [*_command(service, "stop"), "--on-stop", "shutdown"]))
    return _unit(
        "Power the VMs of holdfast down with the host",
        [f"After={AGENT} network-online.target", _mounts(service)]
        if service.system
        else [f"After={AGENT}"],
        [
            "Type=oneshot",
            "RemainAfterExit=yes",
            "# Nothing to start; stopped at shutdown, before the agent and its VMs would be.",
            f"ExecStop={command}",
            f"TimeoutStopSec={_patience(service)}s",
        ],
        "multi-user.target" if service.system else "default.target",
    )


def _command(service: Service, name: str) -> list[str]:
    return [str(service.program), name, "--state", str(service.state)]


def _patience(service: Service) -> int:
    return int(service.drain) + _LEAVING


def _unit(what: str, unit: Sequence[str], settings: Sequence[str], wanted_by: str) -> str:
    lines = [
        "# Written by `holdfast install-service`; local changes belong into a drop-in, see systemctl edit.",
        "[Unit]", f"Description={what}", "Documentation=man:holdfast(1)", *unit, "",
        "[Service]", *settings, "",
        "[Install]", f"WantedBy={wanted_by}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _mounts(service: Service) -> str:
    paths = dict.fromkeys((service.state, *service.reads))
    return "RequiresMountsFor=" + " ".join(map(listed, paths))


def _home(service: Service) -> str:
    needed = (service.program, service.state, *service.reads)
    return "read-only" if service.home or _below(needed, _HOMES) else "yes"


def _below(paths: Sequence[Path], roots: Sequence[str]) -> bool:
    return any(path.is_relative_to(root) for path in paths for root in roots)


def _system_confinement(service: Service, home: str) -> list[str]:
    """What root's agent and its QEMUs, which inherit all of it, can do without. Devices other than KVM, writing outside
    the state, capabilities beyond those listed. Code that is made at run time stays allowed: TCG is such."""
    if service.state == STATE:
        where = ["StateDirectory=holdfast", "StateDirectoryMode=0700"]
    else:
        where = [f"ReadWritePaths={listed(service.state)}"]
    kept = (*CAPABILITIES, *(["CAP_NET_BIND_SERVICE"] if service.low_port else []))
    shared = _below((service.program, service.state, *service.reads), _SHARED)
    return [
        *where,
        "# For sockets where the path of the state directory is too long.",
        "RuntimeDirectory=holdfast",
        "RuntimeDirectoryMode=0700",
        "RuntimeDirectoryPreserve=yes",
        f"CapabilityBoundingSet={' '.join(kept)}",
        "ProtectSystem=strict",
        f"ProtectHome={home}",
        f"PrivateTmp={'no' if shared else 'yes'}",
        "DevicePolicy=closed",
        "DeviceAllow=/dev/kvm rw",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "RestrictNamespaces=yes",
        *_user_confinement(),
    ]


def _user_confinement() -> list[str]:
    """What needs no rights of the manager."""
    return [
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service seccomp",  # QEMU sets filters of its own
        "SystemCallErrorNumber=EPERM",
    ]
