"""Every name that holdfast gives to something on disk, in one place.

    STATE/                       0700
      agent.lock                 tells who the agent is that holds STATE, and whether an agent made that
      state.db  state.id         the ledger; the random id that this state was born with
      state.db.damaged-<n>       a ledger that could not be read any more, for a look
      metrics.db                 what machines have used; may be removed at any time
      token                      who shows it over `--listen` may change something
      ballast                    takes up room that is given up when the disk is full
      images/                    content-addressed base images, 0444
      instances/<uid>/           0700
        disk.qcow2  seed.iso  efivars.fd  instance.json
        console.log  qemu.log  console.log.1  qemu.log.1    the older end of a log that grew too long
        qemu.pid                 locked by flock(2) for as long as the process lives
      runs/<id>/                 0700
        run.json                 the run as the ledger has it, for an agent that has lost the ledger
        result.json              the same for programs, once it has ended
        log  log.progress        what console and script said; how far that was read
        inputs/<sha256>          files of the source that it needs
        artifacts/
      git/
        fetched                  last changed when the repository's server last answered
        <key>/                   a clone of what documents come from: see agent/source/git/clone.py
      keys/  id_ed25519  id_ed25519.pub  hosts/<name>  hosts/<name>.pub

A name that begins with a dot is of a file on its way, or of a run; what a crash leaves of one is removed by the next
agent.
Sockets lie in a directory of their own, whose path is short enough for the 107 bytes that a client can connect to.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from state.ids import Digest, RunId, Uid

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path: QEMU binds 108, Python connects to at most this."""


def older(log: Path) -> Path:
    """Where the end of a log is kept that was cut because it grew too long."""
    return log.with_name(f"{log.name}.1")


def progress(log: Path) -> Path:
    """Where it is kept how far the sources of a run's log were read."""
    return log.with_name(f"{log.name}.progress")


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """The files of one instance."""

    directory: Path
    sockets: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def seed(self) -> Path:
        return self.directory / "seed.iso"

    @property
    def firmware_variables(self) -> Path:
        return self.directory / "efivars.fd"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def qemu_log(self) -> Path:
        return self.directory / "qemu.log"

    @property
    def pid_file(self) -> Path:
        return self.directory / "qemu.pid"

    @property
    def description(self) -> Path:
        return self.directory / "instance.json"

    @property
    def qmp_socket(self) -> Path:
        """For control."""
        return self.sockets / "qmp"

    @property
    def metrics_socket(self) -> Path:
        """The second monitor, for metrics: a monitor serves one client at a time."""
        return self.sockets / "metrics"

    @property
    def console_socket(self) -> Path:
        return self.sockets / "console"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run."""

    directory: Path

    @property
    def record(self) -> Path:
        return self.directory / "run.json"

    @property
    def result(self) -> Path:
        return self.directory / "result.json"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    @property
    def inputs(self) -> Path:
        return self.directory / "inputs"

    def input(self, digest: Digest) -> Path:
        return self.inputs / digest.partition(":")[2]


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The layout below one state directory; `root` is absolute."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "agent.lock"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.db"

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def ballast(self) -> Path:
        return self.root / "ballast"

    @property
    def identity(self) -> Path:
        return self.root / "state.id"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def git(self) -> Path:
        return self.root / "git"

    @property
    def fetched(self) -> Path:
        """Last changed when the server of the repository last answered."""
        return self.git / "fetched"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def client_key(self) -> Path:
        return self.keys / "id_ed25519"

    @property
    def host_keys(self) -> Path:
        return self.keys / "hosts"

    @property
    def sockets(self) -> Path:
        """Where this state's sockets lie: below the state directory where that is short enough, else below the runtime
        directory of this user, under a name made from the state directory's path."""
        return _sockets(self.root, os.geteuid(), os.environ.get("XDG_RUNTIME_DIR"))

    @property
    def api_socket(self) -> Path:
        """Where the running agent answers the commands that need one."""
        return self.sockets / "api.sock"

    def instance(self, uid: Uid) -> InstancePaths:
        return InstancePaths(self.instances / uid, self.sockets / uid)

    def run(self, run: RunId) -> RunPaths:
        return RunPaths(self.runs / run)


@cache
def _sockets(root: Path, user: int, runtime_of_user: str | None) -> Path:
    longest = root / "run" / ("0" * 36) / "metrics"
    if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT:
        return root / "run"
    runtime = Path("/run") if user == 0 else Path(runtime_of_user or f"/run/user/{user}")
    return runtime / "holdfast" / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def identity(path: Path) -> tuple[int, int] | None:
    """Which file bears the name now; None where none does that can be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def default_state() -> Path:
    """`/var/lib/holdfast` for root, `$XDG_STATE_HOME/holdfast` (`~/.local/state/holdfast`) for anybody else."""
    if os.geteuid() == 0:
        return Path("/var/lib/holdfast")
    from platformdirs import user_state_path

    return user_state_path("holdfast")
