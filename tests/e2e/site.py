"""One site for an end-to-end test: a state directory, a tree of documents, and agents as processes of their own.

What it asserts, it asserts of the world: processes, files, sockets, guests. When a test is over nothing of it runs, and
every promise that can be looked at has been looked at.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent.cli.reading import alive_of
from agent.host import run_as_range
from agent.hypervisor.qemu.process import Handle
from agent.paths import StatePaths
from agent.statedir import holder
from agent.status import status
from state.ids import Process, Uid
from state.observed import Instance
from state.records import LedgerUnreadable, Reader
from tests import zygote
from tests.bootsectors import write_disk
from tests.e2e.confinement import amiss

Started = subprocess.Popen[bytes] | zygote.Forked
"""An agent that was started."""
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 300.0
"""Seconds for anything that takes a guest's boot: five under emulation for the tiny one, ninety for a cloud image, and
many more beside other tests."""

IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
images:
  tiny: {{source: "{image}", ssh_user: {user}, boot_timeout: 5m}}
"""

STILL_IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: still
images:
  still: {{source: "{root}/still.img", format: raw, nocloud: false}}
  deaf: {{source: "{root}/deaf.img", format: raw, nocloud: false}}
"""
"""Two disks of a boot sector: a machine that only heeds its power button, and one that does not even that."""

VM = """\
api: holdfast/v1
kind: vm
name: {name}
memory: {memory}
{more}
"""


def image_path(variable: str, default: str) -> Path:
    """A built guest image. Fails, rather than skips, where it was not built."""
    path = Path(os.environ.get(variable) or ROOT / ".cache/guests" / default)
    assert path.exists(), f"{path} is not there: build it with `make guest` or `make guest-debian`"
    return path


class Site:
    """Made by `site()`; gone with all that runs in it when that block ends."""

    def __init__(self, root: Path, image: Path, user: str) -> None:
        self.desired = root / "desired"
        self.desired.mkdir()
        self.state = root / "state"
        self.paths = StatePaths(self.state)
        self.image = image
        self.within: list[str] = []
        """What every command of the program is started behind."""
        self.repository: str | None = None
        """Where documents come from, in place of the directory."""
        self._mark: str | None = None
        self.write("images.yaml", IMAGES.format(image=image, user=user))

    # The tree

    def write(self, file: str, text: str) -> None:
        """As an editor does: beside it, then in its place."""
        path = self.desired / file
        part = path.with_name(f".{path.name}.part")
        part.write_text(text)
        part.rename(path)

    def vm(self, name: str, *, memory: str = "128MiB", more: str = "") -> None:
        if "stop_timeout" not in more:
            more += "\nstop_timeout: 10s"
        self.write(f"{name}.yaml", VM.format(name=name, memory=memory, more=more))

    def delete(self, name: str) -> None:
        (self.desired / f"{name}.yaml").unlink()

    # Commands

    def start(self, *words: str) -> Started:
        """The program, with its output in `agent.log`."""
        whole = self.words("run", *self.source(), *words)
        with (self.state.parent / "agent.log").open("ab") as log, open(os.devnull, "rb") as none:
            if self.within:
                return subprocess.Popen(whole, stdin=none, stdout=log, stderr=log, cwd=ROOT)
            return zygote.start(
                whole[3:], env=os.environ, cwd=ROOT, stdin=none, stdout=log, stderr=log
            )

    def call(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """One command, to its end."""
        if not self.within:
            return zygote.call(self.words(*words)[3:], env=os.environ, cwd=ROOT, stdin=stdin)
        return subprocess.run(
            self.words(*words), capture_output=True, input=stdin, timeout=DEADLINE, cwd=ROOT
        )

    @contextmanager
    def open(self, *words: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
        """One command with pipes on all sides, for as long as the block lasts; ended by the block if not by itself."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | how
        # As from a terminal, also where whoever started the tests ignores Ctrl-C.
        heeding = ["env", "--default-signal=INT", *self.words(*words)]
        process = subprocess.Popen(heeding, cwd=ROOT, text=False, **pipes)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def words(self, command: str, *words: str) -> list[str]:
        """What runs one command of the program on this state."""
        program = [sys.executable, "-m", "agent", *command.split()]
        return [*self.within, *program, "--state", str(self.state), *words]

    def source(self) -> list[str]:
        where = ["--git", self.repository, "--branch", "main"] if self.repository else None
        return [
            *(where or ["--desired", str(self.desired)]), "--image-root", str(self.image.parent),
            "--accel", "tcg", "--interval", "2",
        ]  # fmt: skip

    @contextmanager
    def agent(self, *words: str) -> Iterator[Started]:
        """An agent that runs while the block does, and is then told to stop."""
        process = self.start(*words)
        try:
            yield process
            self.confined()
        finally:
            process.terminate()
            assert process.wait(DEADLINE) is not None
        fine = {0, -signal.SIGKILL}
        if f'"pid": {process.pid},' not in self.log():
            fine.add(-signal.SIGTERM)  # it was told before it had begun
        assert process.returncode in fine, self.log()

    def plan(self) -> list[tuple[str, str]]:
        """What `holdfast plan` says would be done: (action, name) of each step that changes something."""
        told = self.call("plan", "-o", "json", *self.source()[:-2])
        assert told.returncode in (0, 1, 2), told.stderr.decode()
        plan = json.loads(told.stdout)
        wrong = bool(plan["problems"] or plan["error"])
        assert (told.returncode == 1) == wrong, (told.returncode, plan["problems"], plan["error"])
        steps = plan["steps"]
        quiet = ("keep", "wait", "hold")
        return [(one["action"], one["name"]) for one in steps if one["action"] not in quiet]

    def status(self) -> dict[str, Any]:
        """What `status -o json` prints, made in this process: asked again and again, the command itself would take the
        processor from what is waited for. Of a state that no agent has made yet, that there is nothing."""
        try:
            with closing(Reader.open(self.paths.database)) as reader:
                pid = holder(self.paths)
                found = status(reader, self.paths, agent_pid=pid, alive=alive_of(reader, pid))
        except LedgerUnreadable:
            return {"agent": {"running": False}, "items": [], "held": [], "waiting": []}
        told: dict[str, Any] = json.loads(json.dumps(found))
        return told

    def told(self) -> dict[str, Any]:
        """What `status -o json` prints."""
        told = self.call("status", "-o", "json")
        assert told.returncode == 0, told.stderr.decode()
        found: dict[str, Any] = json.loads(told.stdout)
        return found

    def item(self, name: str) -> dict[str, Any]:
        """What `status` says of one name; empty where it says nothing."""
        return next((one for one in self.status()["items"] if one["name"] == name), {})

    def events(self, *words: str) -> list[dict[str, Any]]:
        """What `events` tells, oldest first."""
        told = self.call("events", *words, "-o", "json")
        assert told.returncode == 0, told.stderr.decode()
        return [json.loads(line) for line in told.stdout.splitlines()]

    def ssh(self, name: str, command: str) -> str:
        told = self.call("ssh", name, "--", command)
        assert told.returncode == 0, (told, self.log())
        return told.stdout.decode()

    def log(self) -> str:
        path = self.state.parent / "agent.log"
        return path.read_text() if path.exists() else ""

    # The world

    def confined(self) -> None:
        """Every QEMU of this site has no rights and listens where its document says. One that has just been started is
        given a moment: it gives up its last rights when it has read its command line."""
        said = "".join(path.read_text() for path in self.desired.rglob("*.yaml") if path.is_file())
        addresses = {"127.0.0.1", *re.findall(r"address: ([0-9.]+)", said)}
        for pid in self.processes():
            self.until(
                lambda pid=pid: not amiss(pid, within=run_as_range(), addresses=addresses),  # type: ignore[misc]
                f"{pid} is confined",
                10,
            )

    def instances(self) -> list[Instance]:
        """What is recorded; nothing while there is no database."""
        try:
            reader = Reader.open(self.paths.database)
        except LedgerUnreadable:
            return []
        try:
            return reader.instances()
        finally:
            reader.close()

    def processes(self) -> dict[int, Uid]:
        """Every live QEMU of this site, by pid. They are known by the state's id on their command line."""
        if self._mark is None and self.paths.identity.exists():
            self._mark = self.paths.identity.read_text().strip()
        found = {}
        for entry in Path("/proc").iterdir():
            words = _command_line(entry) if self._mark and entry.name.isdigit() else []
            if words and words[0].endswith("qemu-system-x86_64") and self._marked(words):
                found[int(entry.name)] = Uid(words[words.index("-uuid") + 1])
        return found

    def _marked(self, words: list[str]) -> bool:
        return any(str(self._mark) in word for word in words)

    def waits(self) -> dict[str, str]:
        """Why each name waits that `status` says waits: also of one whose step is still in progress, for a moment."""
        return {one["name"]: one["reason"] for one in self.status()["waiting"]}

    def until(
        self,
        condition: Callable[[], Any],
        what: str,
        seconds: float = DEADLINE,
        every: float = 0.05,
    ) -> Any:
        """Wait for the world, looking `every` so many seconds; the first true answer."""
        waiting, end = threading.Event(), time.monotonic() + seconds
        while True:
            if answer := condition():
                return answer
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{self.log()}"
            waiting.wait(every)

    def ready(self, name: str, **more: Any) -> dict[str, Any]:
        """Wait until a name is ready, and as `more` says; its item."""

        def look() -> dict[str, Any] | None:
            item = self.item(name)
            fits = all(item.get(key) == value for key, value in more.items())
            return item if item.get("ready") and fits else None

        self.until(look, f"{name} is ready {more}")
        found: dict[str, Any]
        [found] = [one for one in self.told()["items"] if one["name"] == name]
        assert found["ready"]
        return found

    def kill(self, pid: int) -> None:
        """SIGKILL one QEMU of this site, and nothing else. It has ended when this returns: its last thread may outlive
        its command line, by which `processes` know it."""
        descriptor = os.pidfd_open(pid)
        try:
            assert pid in self.processes()
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            assert select.select([descriptor], [], [], DEADLINE)[0], f"{pid} does not end"
        finally:
            os.close(descriptor)

    def runs(self, process: Process) -> bool:
        held = Handle.hold(process)
        if held is not None:
            held.close()
        return held is not None

    def sweep(self) -> None:
        """End what is left, by pid, and say whether there was any."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


def _command_line(entry: Path) -> list[str]:
    """Empty for a process that is gone, a zombie among them."""
    try:
        return os.fsdecode((entry / "cmdline").read_bytes()).split("\0")
    except OSError:
        return []


@contextmanager
def still_site() -> Iterator[Site]:
    """A site whose machines run as soon as they are started, for tests of what no guest has a part in."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    write_disk(root / "still.img", "obedient", 1 << 20)
    write_disk(root / "deaf.img", "idle", 1 << 20)
    try:
        with inhabited(root, root / "still.img", "nobody") as made:
            made.write("images.yaml", STILL_IMAGES.format(root=root))
            yield made
    finally:
        shutil.rmtree(root)


@contextmanager
def site(image: Path, user: str) -> Iterator[Site]:
    """A site in a directory with a short path."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    try:
        with inhabited(root, image, user) as made:
            yield made
    finally:
        shutil.rmtree(root)


@contextmanager
def inhabited(root: Path, image: Path, user: str) -> Iterator[Site]:
    """A site in `root`, for as long as the block lasts."""
    made = Site(root, image, user)
    try:
        yield made
        made.confined()
        told = made.call("down", "--yes", "--volumes")
        assert (told.returncode, told.stderr) == (0, b"")
        assert "Traceback" not in made.log(), made.log()
        assert made.processes() == {}, "QEMUs were left behind"
        left = sorted(path.name for path in made.state.iterdir()) if made.state.exists() else []
        assert left in ([], ["agent.lock"]), "files were left behind"
    finally:
        made.sweep()
