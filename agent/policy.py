"""What the operator allows and what the host offers: the part of a plan's input that no document says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from state.observed import DISK_FLOOR

SSH_PORTS = range(22000, 32768)
"""Ports that SSH forwards are leased from: above the registered services that a host is likely to run, below the
kernel's default ephemeral range (32768 to 60999), from which any outgoing connection may take one."""
ENOUGH = 1000
"""Ports that a range to lease from should have."""
DRAIN_TIMEOUT = 60.0
"""Seconds that running jobs get when the agent is to leave."""


def ssh_ports(ephemeral: range) -> range:
    """Where to lease SSH forwards from on a host whose outgoing connections take their ports from `ephemeral`: what of
    the usual range lies beside it, or else what of all that need no rights does. Where that is little, the usual."""
    for usual in (SSH_PORTS, range(1024, 65536)):
        below = range(usual.start, min(usual.stop, ephemeral.start))
        above = range(max(usual.start, ephemeral.stop), usual.stop)
        most = max(below, above, key=len)
        if len(most) >= ENOUGH:
            return most
    return SSH_PORTS


@dataclass(frozen=True, slots=True)
class Policy:
    """`first_ssh_port`: the one that is tried first, in a range that is gone round; two agents on one host that begin
    at different ones do not reach for the same at the same moment. `run_as`: uids for QEMU processes, None where the
    agent is not root and each runs as the agent's user. `memory`: bytes that one guest may have at most, None where
    nobody said. `max_concurrency`: VMs of jobs at once; `capacity`: of those that a label means; `drain_timeout`:
    seconds that running jobs get when the agent is to leave. `max_destroy`: VMs that a pass may destroy without being
    asked to, None for half of those that run. `began`: the CLOCK_BOOTTIME since which guests are asked whether they are
    ready. `disk_floor`: bytes; where fewer are free, nothing new begins. `on_stop`: what becomes of VMs when the agent
    leaves."""

    state_id: str
    accelerator: str
    ssh_ports: range = SSH_PORTS
    first_ssh_port: int = SSH_PORTS.start
    run_as: range | None = None
    memory: int | None = None
    drain_timeout: float = DRAIN_TIMEOUT
    max_concurrency: int = 2
    max_destroy: int | None = None
    disk_floor: int = DISK_FLOOR
    capacity: Mapping[str, int] = field(default_factory=dict)
    began: float = 0.0
    on_stop: Literal["leave", "shutdown"] = "leave"
