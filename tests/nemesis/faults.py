"""What is done to a site: to its agent, its QEMUs, its guests, its documents and its files."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tests.e2e.jobs import JOB
from tests.e2e.site import DEADLINE, Site, Started

MEMORIES = ("96MiB", "104MiB")


class Nemesis:
    """Does one thing after the other. `wanted` is what the documents say of each vm that is wanted just now."""

    def __init__(self, site: Site, names: list[str], seed: int) -> None:
        self.site = site
        self.names = names
        self.chance = random.Random(seed)  # noqa: S311 - the same choices each time are the point
        self.did: Counter[str] = Counter()
        self.wanted: dict[str, tuple[str, str]] = {}
        self.jobs: dict[str, int] = {}
        self._agent: Started | None = None
        self._stopped: set[int] = set()
        self._stolen: list[socket.socket] = []

    # The agent, which a service manager starts again

    def keep_agent(self) -> None:
        if self._agent is None or self._agent.poll() is not None:
            self._agent = self.site.start("--drain-timeout", "5s", "--max-destroy", "100")

    def end_agent(self, how: signal.Signals) -> None:
        if self._agent is not None:
            self._agent.send_signal(how)
            try:
                self._agent.wait(60)
            finally:
                self._agent.kill()
                self._agent.wait(DEADLINE)
            self._agent = None

    def strike(self) -> str:
        """One thing."""
        acts: list[Callable[[], None]] = [
            *[self.kill_agent] * 4, self.stop_agent, *[self.kill_qemu] * 3, *[self.stop_qemu] * 2,
            self.continue_qemus, *[self.edit] * 3, self.delete, self.write, self.break_document,
            self.hide_tree, *[self.new_job] * 2, self.power_off, self.reboot_guest, self.panic,
            self.lose_database, self.damage_database, self.steal_port, self.remove_sockets,
        ]  # fmt: skip
        act = self.chance.choice(acts)
        act()
        self.did[act.__name__] += 1
        return act.__name__

    def kill_agent(self) -> None:
        self.end_agent(signal.SIGKILL)

    def stop_agent(self) -> None:
        self.end_agent(signal.SIGTERM)

    def _pid(self) -> int | None:
        pids = sorted(self.site.processes())
        return self.chance.choice(pids) if pids else None

    def kill_qemu(self) -> None:
        if pid := self._pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_qemu(self) -> None:
        if pid := self._pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)

    def continue_qemus(self) -> None:
        for pid in self._stopped & self.site.processes().keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()

    # Documents

    def write(self) -> None:
        self._write(self.chance.choice(self.names))

    def _write(self, name: str) -> None:
        memory, tier = self.chance.choice(MEMORIES), self.chance.choice(["edge", "core"])
        self.wanted[name] = (memory, tier)
        self.site.vm(name, memory=memory, more=f"labels: {{tier: {tier}}}\nstop_timeout: 1s")

    edit = write

    def delete(self) -> None:
        if len(self.wanted) > len(self.names) // 2:
            name = self.chance.choice(sorted(self.wanted))
            del self.wanted[name]
            self.site.delete(name)

    def break_document(self) -> None:
        name = self.chance.choice(sorted(self.wanted))
        self.site.write(f"{name}.yaml", "api: holdfast/v1\nkind: vm\nname: ")

    def hide_tree(self) -> None:
        hidden = self.site.desired.with_name("hidden")
        self.site.desired.rename(hidden)
        self.keep_agent()
        hidden.rename(self.site.desired)

    def new_job(self) -> None:
        name, code = f"job-{self.chance.randrange(3)}", self.chance.randrange(3)
        self.jobs[name] = code
        script = f"  echo {self.did.total()}\n  sleep {self.chance.choice([0, 3])}\n  exit {code}"
        more = "runs_on: tiny\nretries: {infrastructure: 9, interrupted: 9, script: 0}"
        self.site.write(f"{name}.yaml", JOB.format(name=name, script=script, more=more))

    # Guests

    def _in_guest(self, command: str) -> None:
        name = self.chance.choice(sorted(self.wanted))
        words = self.site.words("ssh", name, "--", command)
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(words, capture_output=True, timeout=5, stdin=subprocess.DEVNULL)

    def power_off(self) -> None:
        self._in_guest("poweroff")

    def reboot_guest(self) -> None:
        self._in_guest("reboot -f")

    def panic(self) -> None:
        self._in_guest("echo c > /proc/sysrq-trigger")

    # Files and ports

    def lose_database(self) -> None:
        self.kill_agent()
        for path in self.site.paths.database.parent.glob("state.db*"):
            path.unlink()

    def damage_database(self) -> None:
        self.kill_agent()
        database = self.site.paths.database
        if database.exists():
            whole = database.read_bytes()
            database.write_bytes(whole[:4096] + b"\xa5" * max(0, len(whole) - 4096))

    def steal_port(self) -> None:
        while self._stolen:
            self._stolen.pop().close()
        used = [one.ssh_port for one in self.site.instances() if one.ssh_port]
        if used:
            thief = socket.socket()
            with suppress(OSError):
                thief.bind(("127.0.0.1", max(used) + 1))
                thief.listen()
                self._stolen.append(thief)
                return
            thief.close()

    def remove_sockets(self) -> None:
        uids = sorted(one.uid for one in self.site.instances())
        if uids:
            with suppress(FileNotFoundError):
                self.site.paths.instance(self.chance.choice(uids)).qmp_socket.unlink()

    # The end

    def heal(self) -> None:
        """End all that lasts, and leave documents that can be followed."""
        self.continue_qemus()
        while self._stolen:
            self._stolen.pop().close()
        for name in self.names:
            self._write(name)
        # What cannot be commanded any more is ended by its operator.
        for one in self.site.instances():
            process = one.process
            if process and not self.site.paths.instance(one.uid).qmp_socket.exists():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
