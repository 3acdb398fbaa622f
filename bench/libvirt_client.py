"""What a user of libvirt writes, for the Python of the system, which has libvirt's module: it reads lines of JSON,
`[what, argument]`, does that, and answers with a line: the milliseconds that it took.

Guests are defined and started four at a time, and ended the same way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt  # type: ignore[import-not-found]

THREADS = 4
PATIENCE = 60.0
"""Seconds."""
STATISTICS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BLOCK
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='builtin'/></rng>
    <panic model='isa'/>
  </devices>
  <seclabel type='none'/>
</domain>
"""


class Client:
    """Of one libvirtd."""

    def __init__(self, directory: Path, base: Path, qemu: str, memory: int) -> None:
        self._directory, self._base, self._qemu, self._memory = directory, base, qemu, memory
        self._connection = _opened()

    def up(self, machines: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._start, range(machines)))

    def _start(self, number: int) -> None:
        name = f"vm{number}"
        disk = self._directory / f"{name}.qcow2"
        overlay = ("-b", self._base, "-F", "raw", disk)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *overlay], check=True)
        told = DOMAIN.format(
            name=name,
            memory=self._memory,
            qemu=self._qemu,
            disk=disk,
            console=self._directory / f"{name}.log",
        )
        domain = self._connection.defineXML(told)
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def ask(self, machines: int) -> None:
        assert self._told() == machines

    def find(self, machines: int) -> None:
        """On a new connection, once there is somebody to connect to. Raises TimeoutError after a minute."""
        self._connection = _opened()
        end = time.monotonic() + PATIENCE
        while self._told() < machines:
            if time.monotonic() > end:
                raise TimeoutError("libvirtd does not find all of them")
            time.sleep(0.01)

    def _told(self) -> int:
        """How many tell statistics: those that are defined and do not run have none."""
        told = (told for _, told in self._connection.getAllDomainStats(STATISTICS))
        return sum("block.0.rd.reqs" in one for one in told)

    def leave(self, _: int) -> None:
        self._connection.close()

    def down(self, machines: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._end, range(machines)))

    def _end(self, number: int) -> None:
        domain = self._connection.lookupByName(f"vm{number}")
        domain.destroy()
        domain.undefine()
        (self._directory / f"vm{number}.qcow2").unlink()
        (self._directory / f"vm{number}.log").unlink(missing_ok=True)


def _opened(within: float = 30.0) -> libvirt.virConnect:
    end = time.monotonic() + within
    while True:
        try:
            return libvirt.open("qemu:///session")
        except libvirt.libvirtError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def main() -> None:
    """Answer every line."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    directory, base, qemu, memory = sys.argv[1:]
    client = Client(Path(directory), Path(base), qemu, int(memory))
    print("ready", flush=True)
    for line in sys.stdin:
        what, argument = json.loads(line)
        begun = time.perf_counter()
        getattr(client, what)(argument)
        print(1000 * (time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
