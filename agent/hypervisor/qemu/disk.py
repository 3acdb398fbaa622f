"""Makes the root disk of a live machine larger."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from agent.errors import MonitorError
from agent.hypervisor.qemu.argv import ROOT_NODE
from agent.hypervisor.qemu.confine import file_size_limit
from agent.hypervisor.qemu.running import Running


async def grow(running: Running, size: int) -> None:
    """Make it `size` bytes, unless it is as large already. Raises MonitorError."""
    nodes = await running.monitor.execute("query-named-block-nodes", {"flat": True})
    sizes = [node["image"]["virtual-size"] for node in nodes if node.get("node-name") == ROOT_NODE]
    if not sizes:
        raise MonitorError(f"the machine has no block node called {ROOT_NODE}")
    if sizes[0] >= size:
        return
    _allow(running.process.pid, size)
    await running.monitor.execute("block_resize", {"node-name": ROOT_NODE, "size": size})


def _allow(pid: int, disk: int) -> None:
    """Raise the limit that no file of the process may exceed; first, since a write past it stops the guest."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
        soft, hard = re.findall(r"^Max file size +(\S+) +(\S+)", limits, re.MULTILINE)[0]
        if soft == "unlimited" or int(soft) > disk + disk // 64:
            return
        most = (
            resource.RLIM_INFINITY if hard == "unlimited" else max(int(hard), file_size_limit(disk))
        )
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_size_limit(disk), most))
    except OSError as error:
        raise MonitorError(
            f"the file size limit of process {pid} cannot be raised for a disk of {disk} bytes: {error.strerror}",
            hint="a stopped machine's disk can grow",
        ) from error
