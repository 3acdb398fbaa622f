"""What happens to the host of a simulation: to its processes, guests, ports, disk, network, and the host itself.

Each is something that a real host does to a real agent. What lasts is ended by `heal`.
"""

from __future__ import annotations

import resource
import uuid
from collections.abc import Callable
from random import Random

from agent.errors import ImageUnavailable, MonitorError, StartFailed, StopFailed
from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.memory.world import Guest
from agent.simulation.author import IMAGES
from agent.simulation.promises import Promises
from state.ids import Digest, Uid
from state.observed import Listener, RunState, image_key

_SLOW = ("prepare", "spawn", "resume", "stop", "discard", "set_forwards", "fetch", "upload", "look")
_FAILING = {
    "prepare": StartFailed("no space left on the device"),
    "describe": StartFailed("no space left on the device"),
    "spawn": StartFailed("cannot set up guest memory"),
    "resume": MonitorError("cont was not answered in time"),
    "stop": StopFailed("the process did not end"),
    "discard": StopFailed("the directory is not empty"),
    "set_forwards": MonitorError("the port is taken"),
    "fetch": ImageUnavailable("the connection was reset"),
}


class Faults:
    """Everything that can go wrong on one host."""

    def __init__(self, chance: Random, host: MemoryHost, promises: Promises) -> None:
        self._chance, self._host, self._promises = chance, host, promises
        self.wall_offset = 0.0
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def strike(self) -> str:
        """Let one thing go wrong; what it was, in words."""
        acts: list[Callable[[], str]] = [
            *[self._kill] * 3,
            *[self._guest_state] * 3,
            self._reset,
            *[self._freeze] * 2,
            self._cut,
            *[self._slow] * 2,
            *[self._fail] * 2,
            self._steal_port,
            self._new_content,
            self._step_clock,
            self._fill_disk,
            self._ignore_acpi,
            self._deafen,
        ]
        return self._chance.choice(acts)()

    def calm(self) -> None:
        """End what concerns the whole host, and leave what troubles single machines."""
        self._host.delays.clear()
        self._host.failures.clear()
        self._host.listening.clear()
        self._host.free_disk = None
        self.disk_is_full(False)

    def heal(self) -> None:
        """End everything that lasts."""
        self.calm()
        for uid, guest in self._host.guests.items():
            guest.ignores_acpi = False
            guest.deaf.clear()
            if guest.frozen:
                self._host.freeze(uid, frozen=False)
            if guest.state is RunState.IO_ERROR:
                self._host.guest(uid, RunState.RUNNING)

    def reboot(self) -> None:
        """Power the host off hard and on again."""
        self._host.reboot(str(uuid.UUID(int=self._chance.getrandbits(128))))

    def disk_is_full(self, full: bool) -> None:
        """Let no file of this process grow, or let them again: the database and the logs of runs are real files."""
        soft, hard = self._limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 if full else soft, hard))

    # One thing each

    def _one(self) -> tuple[Uid, Guest] | None:
        living = [(uid, guest) for uid, guest in self._host.guests.items() if guest.process]
        return self._chance.choice(living) if living else None

    def _kill(self) -> str:
        if (one := self._one()) is None:
            return "nothing to kill"
        self._host.kill(one[0])
        return f"kill {one[1].machine.name}"

    def _guest_state(self) -> str:
        one = self._one()
        if one is None or one[1].state is not RunState.RUNNING:
            return "no guest runs"
        state = self._chance.choice([RunState.OFF, RunState.PANICKED, RunState.IO_ERROR])
        self._host.guest(one[0], state)
        return f"{state} {one[1].machine.name}"

    def _reset(self) -> str:
        one = self._one()
        if one is None or one[1].state is not RunState.RUNNING:
            return "no guest runs"
        self._host.restart(one[0])
        return f"reset {one[1].machine.name}"

    def _freeze(self) -> str:
        if (one := self._one()) is None:
            return "nothing to freeze"
        frozen = not one[1].frozen
        self._host.freeze(one[0], frozen=frozen)
        return f"{'freeze' if frozen else 'thaw'} {one[1].machine.name}"

    def _cut(self) -> str:
        if (one := self._one()) is None:
            return "nothing to cut"
        self._host.cut(one[0])
        return f"cut {one[1].machine.name}"

    def _slow(self) -> str:
        operation = self._chance.choice(_SLOW)
        self._host.delays[operation] = self._chance.choice([0.0, 0.2, 3.0, 40.0])
        return f"slow {operation}"

    def _fail(self) -> str:
        operation = self._chance.choice(sorted(_FAILING))
        times = self._chance.choice([1, 1, 2, 8])
        self._host.failures.setdefault(operation, []).extend([_FAILING[operation]] * times)
        return f"fail {operation}"

    def _steal_port(self) -> str:
        if self._host.listening and self._chance.random() < 0.5:
            self._host.listening.pop()
            return "a port is free again"
        port = self._chance.choice([8000, 8001, 22000, 22001, 22005])
        # Nobody can listen where a machine does.
        used = {one.host for guest in self._host.guests.values() for one in guest.forwards}
        if port not in used:
            self._host.listening.append(Listener("127.0.0.1", port, 77, "a stranger"))
        return f"steal {port}"

    def _new_content(self) -> str:
        image = IMAGES[1]
        made = f"sha256:{self._chance.getrandbits(256):064x}"
        self._host.contents[image.source] = Digest(made)
        self._host.images.pop(image_key(image), None)
        self._promises.content_changed(image.source)
        return "new content of an image"

    def _step_clock(self) -> str:
        self.wall_offset = self._chance.choice([0.0, -86400.0, 3600.0, 1e8])
        return "step the clock"

    def _fill_disk(self) -> str:
        full = self._host.free_disk is None
        self._host.free_disk = 0 if full else None
        self.disk_is_full(full)
        return "fill the disk" if full else "clear the disk"

    def _ignore_acpi(self) -> str:
        if (one := self._one()) is None:
            return "no guest runs"
        one[1].ignores_acpi = True
        return f"deaf to ACPI {one[1].machine.name}"

    def _deafen(self) -> str:
        if (one := self._one()) is None:
            return "no guest runs"
        one[1].deaf ^= {80}
        return f"deaf on 80 {one[1].machine.name}"
