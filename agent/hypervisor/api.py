"""The seam: what a host with a hypervisor promises to the executor and the observer above it.

Two implementations keep it, `qemu` and `memory`, and one contract suite (`tests/contract`) tries both. An
implementation starts, watches and ends machines, keeps images and knocks at guests; it decides nothing, and it never
reads the ledger.

A machine's life, as the process sees it:

    (nothing) --prepare--> files --spawn--> inert --resume--> running <--pause/resume--> paused
                                               \\                 |            guest off / panic: `off`, `panicked`
                                                `------ stop / kill: gone -------'
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from state.ids import Name, Process, Uid
from state.observed import BaseImage as BaseImage
from state.observed import Exit as Exit
from state.observed import HowFar as HowFar
from state.observed import Listener
from state.observed import RunState as RunState
from state.observed import StoredImage as StoredImage
from state.observed import View as View
from state.observed import Ways as Ways
from state.spec.resolved import Firmware, Forward, HealthSpec, ImageSpec, MachineType, SeedBus
from state.usage import DiskUsage as DiskUsage
from state.usage import Usage as Usage
from state.work import Artifact as Artifact
from state.work import Collected as Collected
from state.work import Content as Content
from state.work import Limits as Limits
from state.work import Look as Look

Accelerator = Literal["kvm", "tcg"]
TCG_BUFFER = 128 << 20
"""Bytes of translated code that one machine may keep under TCG. A Debian guest takes 30 s to its login prompt with 32
MiB, 22 with 64, and 20 with 128, 256 and 512; QEMU's own default is 1 GiB, and it fills up."""


def needed(memory: int, accelerator: str) -> int:
    """Bytes of the host that a machine may come to take whose guest has `memory`."""
    return memory + TCG_BUFFER * (accelerator == "tcg")


@dataclass(frozen=True, slots=True)
class SeedContent:
    """What the guest is told at its first boot. `user_data` is passed through unchanged."""

    login: str
    user_data: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is needed to make and start one instance; nothing is looked up later.

    `memory` and `disk` are bytes (`disk` None: as large as the base). `forwards` holds every forward, the SSH port's
    among them. `run_as` is the uid and gid of the process where the agent is root, None where it keeps its own.
    `seed` None: the image takes no NoCloud seed.
    """

    uid: Uid
    name: Name
    generation: int
    base: BaseImage
    cpus: int
    memory: int
    disk: int | None
    accelerator: Accelerator
    machine: MachineType = "pc"
    firmware: Firmware = "bios"
    seed_bus: SeedBus = "ide"
    seed: SeedContent | None = None
    forwards: tuple[Forward, ...] = ()
    egress: bool = True
    run_as: int | None = None
    record: str = "{}"
    """JSON that is kept in the instance's own file, so that an agent that lost its ledger knows what this is."""


@dataclass(frozen=True, slots=True)
class Found:
    """A live process on this host that carries this state directory's mark. `name` and `generation` come from the
    instance's own file, None where that file is missing or does not match; so does `record`."""

    uid: Uid
    process: Process
    name: Name | None = None
    generation: int | None = None
    record: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A machine whose files are whole on this host, live or not, as its own file tells it. What `record` means is for
    its writer to know; it is what the machine was last prepared with or described by."""

    uid: Uid
    name: Name
    generation: int
    record: str


OnChange = Callable[[Uid, str], None]
"""Called in the event loop with the machine and a word for the log, when something about it may have changed: it says
*look*, never *do*."""


class Hypervisor(Protocol):
    """Starts, watches and ends machines. Every method that waits has its own deadline and raises errors of
    `agent.errors`; every one of them may be cut off at any line and called again."""

    @property
    def boot_id(self) -> str:
        """Of the running host; a process of another boot is gone."""

    async def open(self, on_change: OnChange) -> None:
        """Make ready; nothing else may be called before."""

    async def close(self) -> None:
        """Let go of every machine without touching it."""

    def scan(self) -> Sequence[Found]:
        """Every live machine of this state directory, known to its caller or not."""

    def kept(self, but: Collection[Uid] = ()) -> Sequence[Kept]:
        """Every machine of this state directory that has its files, without those of `but`, so that a lost ledger loses
        no stopped machine."""

    def leftovers(self, but: Collection[Uid] = ()) -> Sequence[Uid]:
        """Machines of this state directory, without those of `but`, of which some files or sockets are left, too few to
        tell what they are, and that no process holds."""

    def process_of(self, uid: Uid) -> Process | None:
        """The live process of the machine, supervised or not. Where there is none, that costs next to nothing."""

    def alive(self, uid: Uid, process: Process) -> bool:
        """Whether exactly this process still runs. A zombie, a recycled pid and another boot's pid do not."""

    async def prepare(self, machine: Machine) -> None:
        """Make the machine's directory, disk and seed, complete or not at all. What is already whole is kept: a disk
        that a guest has written to is never made anew."""

    async def describe(self, uid: Uid, record: str) -> None:
        """Make `record` the one that the machine's own file holds, live or not; the rest of that file stays. Nothing
        happens where the machine has none. Raises RetryLater."""

    async def spawn(self, machine: Machine) -> Process:
        """Start the prepared machine, inert, and supervise it. Raises StartFailed with the hypervisor's own words.

        A machine that already runs under this uid is found, not doubled: its process is returned.
        """

    async def attach(self, uid: Uid, process: Process) -> None:
        """Supervise a machine that another agent started. Returns at once; `view` tells what comes of it."""

    def attached(self, uid: Uid) -> bool:
        """Whether the machine is supervised by this agent."""

    def view(self, uid: Uid) -> View:
        """What was last heard of it; never waits."""

    def exit_of(self, uid: Uid) -> Exit | None:
        """How its last process ended, if that was seen."""

    async def resume(self, uid: Uid) -> None:
        """Let the guest run. Raises MonitorError."""

    async def pause(self, uid: Uid) -> None:
        """Stop the guest's processors. Raises MonitorError."""

    async def set_forwards(self, uid: Uid, wanted: Sequence[Forward]) -> None:
        """Let a live machine have exactly the `wanted` host forwards. Raises MonitorError, naming the one that failed,
        with those from before restored as far as that goes."""

    async def grow(self, uid: Uid, size: int) -> None:
        """Make the root disk `size` bytes, live or not; one that is as large already stays. Raises MonitorError."""

    async def stop(self, uid: Uid, process: Process, grace: float) -> None:
        """End the process: ACPI power-down waited for `grace` seconds (0: skipped), then `quit`, SIGTERM, SIGKILL, each
        with its deadline. Returns when it is gone; raises StopFailed when nothing helped."""

    async def discard(self, uid: Uid) -> None:
        """Remove every file and socket of a machine whose process is gone."""


class Session(Protocol):
    """One login into a guest, in which the scripts of runs are started, watched and cleared out.

    `run` is a name of at most 64 ASCII letters, digits, `-` and `_`. Every method has a deadline; each may be cut off
    at any line and called again, in this session or in a later one, with the same effect. They raise SessionLost when
    the connection broke or nothing came over it, which ends the session, and GuestRefused when the guest said no.
    """

    @property
    def boot(self) -> str:
        """A word for the guest's boot; another word: it has been rebooted."""

    async def upload(
        self,
        run: str,
        script: Content,
        env: Mapping[str, str],
        files: Sequence[tuple[str, Content, int]],
    ) -> None:
        """Put the script of a run, its environment and its files (absolute path, content, mode) into the guest.

        Nobody but the login can read script and environment. A file appears at its path whole or not at all, in
        directories that are made where they are missing. A run that has begun is left as it is. Raises StartFailed
        where a file of this host cannot be read.
        """

    async def begin(self, run: str) -> bool:
        """Start the uploaded script, so that no lost connection and no agent's end ends it; whether it was this call
        that did. It is started at most once, whatever is repeated: False when it was started before.

        It runs in the login's home, with nothing to read and with both outputs going where `look` finds them.
        """

    async def look(self, run: str, offset: int, at_most: int) -> Look:
        """How far the run is, with at most `at_most` bytes of its output from `offset`. Cheap: ten times a second."""

    async def collect(
        self, run: str, patterns: Sequence[str], into: Path, limits: Limits
    ) -> Collected:
        """Copy the regular files that the patterns match into the folder `into`, which is made, or emptied first.

        A pattern is an absolute path in which `*`, `?` and `[...]` stand for characters of one component, but not for a
        dot at its start, and a component `**` for any number of directories. Links are followed by the guest alone.
        No name that a guest could give a file leads out of the folder. A file that could not be copied whole is left
        out, or has a name that ends in `.partial`, with a note.
        """

    async def close(self) -> None:
        """Log out. What was started runs on."""


class Doorway(Protocol):
    """Asks whether a guest lets us in, and goes in."""

    async def answers(self, uid: Uid, name: Name, port: int, user: str) -> None:
        """Return when the guest let us in over SSH with pinned keys and ran a command; raise NotReady otherwise. One
        try, with a deadline: a TCP connect proves nothing, since user-mode networking accepts for the guest."""

    async def enter(self, uid: Uid, name: Name, port: int, user: str) -> Session:
        """Log in with pinned keys. Raises NotReady while the guest does not let us in, GuestRefused when it has not got
        what a session needs. One try, with a deadline; the caller closes the session."""


class Checkups(Protocol):
    """Asks a service of a guest whether it serves, by TCP or HTTP."""

    async def check(self, uid: Uid, name: Name, ways: Ways, health: HealthSpec) -> None:
        """Return when the guest itself has accepted a connection to the port, or answered the request with the status;
        raise NotReady with what happened instead. One try, without a deadline; it may be cut off."""

    def forget(self, uid: Uid) -> None:
        """Let go of what is kept for the next check of this guest."""


class Meter(Protocol):
    """Tells what machines use."""

    async def read(self, machines: Mapping[Uid, Process]) -> Mapping[Uid, Usage]:
        """What each of these processes uses just now. One that is gone or does not answer within a second is left out,
        and costs the others nothing but that."""

    def close(self) -> None:
        """Let go of every machine without touching it."""


class Images(Protocol):
    """The store of base images: content-addressed, read-only."""

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        """Those that are in the store, whole and verified, and still what their source holds as far as that can be seen
        without fetching. A source that says nothing within about a second is taken to be as it was."""

    async def fetch(self, image: ImageSpec, progress: Callable[[HowFar], None]) -> BaseImage:
        """Bring the image into the store; `progress` is told now and then how far that is. Raises ImageUnavailable.

        One that is on its way already is waited for, not doubled: it ends early only when all who wait for it leave.
        """

    async def stored(self) -> Sequence[StoredImage]:
        """All that is in the store, wanted or not."""

    async def remove(self, image: StoredImage) -> None:
        """Take one out, which the caller knows that nothing stands on or is to stand on. Nothing happens where it is
        gone. Raises Blocked."""


class Host(Protocol):
    """What the host offers beside its hypervisor."""

    @property
    def boot_id(self) -> str:
        """Of the running boot."""

    def boottime(self) -> float:
        """CLOCK_BOOTTIME in seconds."""

    def listeners(self, of_interest: Collection[int]) -> Sequence[Listener]:
        """Every TCP port that something listens on; who it is, only for the ports of interest."""

    def free_memory(self, promised: Mapping[int, int]) -> int | None:
        """Bytes that further guests may use. `promised`: for the pid of each guest, the bytes that it may come to use,
        of which it need not have touched any yet. None where that cannot be told."""

    def free_disk(self) -> int | None:
        """Bytes that are free where disks of guests lie; None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything outside that an agent acts on."""

    hypervisor: Hypervisor
    images: Images
    doorway: Doorway
    checkups: Checkups
    meter: Meter
    host: Host
