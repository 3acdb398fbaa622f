"""Changes the host forwards of a live machine, from what QEMU says they are to what they shall be.

The commands are of the human monitor, which alone can do this in QEMU 7.2, and answer in prose: silence is success of
`hostfwd_add`, and `info usernet` is the truth. It refuses to send any text that `argv.hostfwd` did not make.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.errors import MonitorError
from agent.hypervisor.qemu import argv
from agent.hypervisor.qemu.monitor import Monitor
from state.spec.resolved import Forward
from state.spec.words import excerpt

# `  TCP[HOST_FORWARD]  18       127.0.0.1 39435       10.0.2.15    22     0     0` (net/slirp.c, slirp/src/misc.c)
_FORWARD = re.compile(r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)", re.MULTILINE)
# `  TCP[ESTABLISHED]   21       127.0.0.1  8080       10.0.2.15    80     0     0`: a connection through a forward
_CONNECTION = re.compile(
    r"^\s*TCP\[ESTABLISHED\]\s+(\d+)\s+\S+\s+(\d+)\s+\S+\s+(\d+)", re.MULTILINE
)

_EVERY = "0.0.0.0"  # noqa: S104  # said, never bound here


def parsed(usernet: str) -> set[Forward]:
    """The forwards that `info usernet` lists. `*` is every address."""
    found = _FORWARD.findall(usernet)
    return {
        Forward(int(host), int(guest), _EVERY if at == "*" else at) for at, host, guest in found
    }


async def accepted(monitor: Monitor, forward: Forward) -> frozenset[int]:
    """The descriptors of the connections through the forward whose handshake the guest has completed; before that QEMU
    lists them as SYN_SENT. Raises MonitorError."""
    usernet = await _said(monitor, "info usernet")
    ports = (str(forward.host), str(forward.guest))
    return frozenset(int(fd) for fd, *way in _CONNECTION.findall(usernet) if tuple(way) == ports)


async def change(monitor: Monitor, wanted: Sequence[Forward]) -> None:
    """Make the forwards of the machine `wanted`. Raises MonitorError with those from before restored as far as that
    goes; ValueError for an address or a port that is none, before anything is sent."""
    for forward in wanted:
        argv.hostfwd(forward)
    before = parsed(await _said(monitor, "info usernet"))
    added: list[Forward] = []
    removed: list[Forward] = []
    try:
        for forward in sorted(before - set(wanted), key=_key):
            removed.append(forward)
            await _remove(monitor, forward)
        for forward in sorted(set(wanted) - before, key=_key):
            await _add(monitor, forward)
            added.append(forward)
    except MonitorError as error:
        await _restore(monitor, added, removed, error)
        raise


async def _restore(
    monitor: Monitor, added: list[Forward], removed: list[Forward], error: MonitorError
) -> None:
    try:
        for forward in added:
            await _remove(monitor, forward)
        for forward in removed:
            await _add(monitor, forward)
    except MonitorError as second:
        error.add_note(f"and the forwards from before could not all be restored: {second}")


async def _add(monitor: Monitor, forward: Forward) -> None:
    # QEMU is asked for the guest's port with no address: the one that its DHCP server gives.
    reply = await _said(monitor, f"hostfwd_add {argv.NETDEV} {argv.hostfwd(forward)}")
    if reply.strip():
        where = f"{forward.address}:{forward.host}"
        raise MonitorError(
            f"{where} could not be forwarded to port {forward.guest}: {excerpt(reply.strip())}"
        )


async def _remove(monitor: Monitor, forward: Forward) -> None:
    rule = argv.hostfwd(forward).partition("-")[0]
    reply = await _said(monitor, f"hostfwd_remove {argv.NETDEV} {rule}")
    if not re.search(r"removed|not found", reply):
        raise MonitorError(
            f"the forward of {forward.address}:{forward.host} stays: {excerpt(reply.strip())}"
        )


async def _said(monitor: Monitor, line: str) -> str:
    reply = await monitor.execute("human-monitor-command", {"command-line": line})
    return reply if isinstance(reply, str) else ""


def _key(forward: Forward) -> tuple[str, int, int]:
    return (forward.address, forward.host, forward.guest)
