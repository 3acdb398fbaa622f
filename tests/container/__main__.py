"""`python -m tests.container`: the image of the Containerfile, built and run on this host, as root and without pulling.

The base image is a Debian that mmdebstrap makes of this host's sources; Python packages come from wheels that pip has
fetched and the locks' hashes prove. The container has mounts and processes of its own, its user and no capability; its
network is the host's. Status 1 if anything was not as it should be.

All of it happens in mounts and processes apart from the host's, which end with this program however that ends, and
below one directory, which is removed then; by the next one where this was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.parting import WHY
from tests.e2e.site import ROOT, image_path

CACHE = ROOT / ".cache/container"
TRIAL = CACHE / "trial"
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation"]
PRIVATELY = """
set -e
mount --make-private /proc
mount -t tmpfs tmpfs /proc
mkdir /proc/root
mount --rbind / /proc/root
mount --make-rprivate /proc/root
exec chroot /proc/root sh -c 'mount -t proc proc /proc && cd "$0" && exec "$@"' "$PWD" "$@"
"""
"""Where this host is itself a directory that somebody has changed root to, its root is no mount, and cannot be told to
keep to itself what is mounted in it. Its /proc can, and so can a root that is bound there."""
BASE = "docker.io/library/debian:bookworm-slim"
DEADLINE = 600.0
USER = 990
DOCUMENTS = {
    "images.yaml": """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
images:
  tiny: {source: tiny.qcow2, ssh_user: tiny, boot_timeout: 10m}
""",
    "web.yaml": "{api: holdfast/v1, kind: vm, name: web, memory: 128MiB}\n",
    "hello.yaml": """\
api: holdfast/v1
kind: job
name: hello
runs_on: tiny
script: |
  #!/bin/sh
  echo "hello from $(uname -s)"
""",
}
LATE = """\
api: holdfast/v1
kind: job
name: late
runs_on: tiny
script: |
  #!/bin/sh
  sleep 15
  echo "to its end"
"""
"""A job that runs when the container is told to stop."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
INSIDE = """
set -e
mount --bind "$VOLUME" "$ROOT/var/lib/holdfast"
mkdir -p "$ROOT/desired" && mount --bind -o ro "$DESIRED" "$ROOT/desired"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
for device in $DEVICES; do touch "$ROOT/dev/$device"; mount --bind "/dev/$device" "$ROOT/dev/$device"; done
for link in fd stdin=fd/0 stdout=fd/1 stderr=fd/2; do ln -s "/proc/self/${link#*=}" "$ROOT/dev/${link%=*}"; done
exec chroot "$ROOT" "$@"
"""
"""Makes the container's mounts, in a namespace of their own, and becomes its first process."""
RIGHTS = [
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all",
    "--inh-caps=-all", "--no-new-privs", "--",
]  # fmt: skip


def say(what: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.0f} s  {what}", flush=True)


BEGAN = time.monotonic()


def done(*command: str | Path, **how: Any) -> str:
    """What a command prints. Raises CalledProcessError, with its words on standard error."""
    told: str = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **how).stdout
    return told


class Store:
    """Images and containers in a directory of their own."""

    def __init__(self, root: Path) -> None:
        where = ["--root", root / "storage", "--runroot", root / "run", "--storage-driver", "vfs"]
        self._buildah = ["buildah", *map(str, where)]

    def buildah(self, *words: str | Path) -> str:
        return done(*self._buildah, *words).strip()

    def build(self, packages: Path) -> None:
        base = CACHE / "base.tar"
        if not base.exists():
            part = TRIAL / base.name
            done("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", part, sources())
            part.rename(base)
        scratch = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", scratch, base, "/")
        self.buildah("commit", "--quiet", scratch, BASE)
        self.buildah("rm", scratch)
        settings = CACHE / "pip.conf"
        settings.write_text("[global]\nno-index = true\nfind-links = /packages\n")
        self.buildah(
            "bud", "--quiet", "--isolation", "chroot", "--pull-never", "--build-arg",
            "HOLDFAST_BUILD=tried", "--volume", f"{packages}:/packages:ro", "--volume",
            f"{settings}:/etc/pip.conf:ro", "--tag", "holdfast", ROOT,
        )  # fmt: skip

    def mounted(self) -> tuple[Path, dict[str, Any]]:
        """The files of a new container, and what the image says of how it is run."""
        told = json.loads(self.buildah("inspect", "--type", "image", "holdfast"))
        container = self.buildah("from", "--pull-never", "holdfast")
        return Path(self.buildah("mount", container)), told["OCIv1"]["config"]


def sources() -> Path:
    """Where this host has its Debian packages from."""
    apt = Path("/etc/apt")
    likely = [apt / "sources.list.d/debian.sources", *apt.glob("sources.list.d/*debian*.sources")]
    return next((one for one in likely if one.exists()), apt / "sources.list")


def fetched() -> Path:
    """The wheels that the locks name, as pip fetches them with this host's settings."""
    into = CACHE / "packages"
    into.mkdir(parents=True, exist_ok=True)
    pip = ROOT / ".tools/bin/pip"
    for lock in ("runtime", "build"):
        wanted = ("--require-hashes", "-r", ROOT / f"requirements/{lock}.lock")
        done(pip, "download", "--quiet", "--dest", into, *wanted)
    return into


def children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def end(unshare: subprocess.Popen[Any]) -> None:
    """End all that runs apart: the kernel does that when its first process ends, before unshare(1) hears of it."""
    while unshare.poll() is None:
        for first in children(unshare.pid):
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            unshare.wait(0.1)


class Container:
    """One container, from its start to its end."""

    def __init__(self, root: Path, config: dict[str, Any], place: Path) -> None:
        assert config["User"] == "holdfast", config
        self._root, self._log = root, place / "container.log"
        self._environment = dict(one.split("=", 1) for one in config["Env"])
        outer = {
            "ROOT": str(root), "VOLUME": str(place / "volume"), "DESIRED": str(place / "desired"),
            "DEVICES": " ".join(DEVICES),
        }  # fmt: skip
        inner = [f"{key}={value}" for key, value in self._environment.items()]
        command = [*config["Entrypoint"], *config["Cmd"]]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*APART, "private", "--ipc", "sh", "-c", INSIDE, "sh", "env", "-i", *inner, *RIGHTS, *command],
                env={**os.environ, **outer}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._stop_signal = signal.Signals[config["StopSignal"]]
        self.first = self.until(self._begun, "its first process has begun")

    def log(self) -> str:
        return self._log.read_text()

    def until(self, met: Callable[[], Any], what: str) -> Any:
        waiting, end = threading.Event(), time.monotonic() + DEADLINE
        while not (answer := met()):
            assert self._process.poll() is None, f"the container has ended\n{self.log()}"
            assert time.monotonic() < end, f"not in time: {what}\n{self.log()}"
            waiting.wait(1.0)
        return answer

    def _begun(self) -> int | None:
        """Its first process, as this host numbers it."""
        return next(iter(children(self._process.pid)), None)

    def within(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in it, as its user."""
        inner = [f"{key}={value}" for key, value in self._environment.items()]
        enter = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--ipc", "--root"]
        return subprocess.run(
            [*enter, "env", "-i", *inner, *RIGHTS, *words], capture_output=True, text=True
        )

    def items(self) -> dict[str, dict[str, Any]]:
        told = self.within("holdfast", "status", "-o", "json")
        found = json.loads(told.stdout)["items"] if told.returncode == 0 else []
        return {one["name"]: one for one in found}

    def ready(self, name: str) -> dict[str, Any]:
        self.until(lambda: self.items().get(name, {}).get("ready"), f"{name} is ready")
        return self.items()[name]

    def stop(self) -> int:
        """As `podman stop` does it: its status."""
        os.kill(self.first, self._stop_signal)
        return self._process.wait(DEADLINE)

    def end(self) -> None:
        end(self._process)


@contextmanager
def running(root: Path, config: dict[str, Any], place: Path) -> Iterator[Container]:
    container = Container(root, config, place)
    try:
        yield container
    finally:
        container.end()


def first_life(container: Container) -> dict[str, Any]:
    """A VM and a job, in a container that is PID 1, user and rights as it should be; the VM."""
    web = container.ready("web")
    hello = container.until(lambda: container.items()["hello"].get("exit_code") is not None, "job")
    assert hello, "it has ended"
    assert container.items()["hello"]["phase"] == "succeeded", container.items()["hello"]
    assert "hello from Linux" in container.within("holdfast", "logs", "hello").stdout
    say("a VM is ready and a job has succeeded")
    assert "(built from tried)" in container.within("holdfast", "--version").stdout
    doctor = container.within("holdfast", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    first = Path("/proc", str(container.first))
    assert (first / "comm").read_text() == "tini\n"
    for pid in container.within("sh", "-c", "ls /proc | grep -x '[0-9]*'").stdout.split():
        status = container.within("cat", f"/proc/{pid}/status").stdout
        for line in status.splitlines():
            if line.startswith("Uid:"):
                assert line.split()[1:] == [str(USER)] * 4, status
            elif line.startswith(("CapEff:", "CapBnd:")):
                assert int(line.split()[1], 16) == 0, status
    orphan = "sh -c 'true & echo $!' & wait"
    pid = container.within("sh", "-c", orphan).stdout.strip()
    gone = f"! test -e /proc/{pid}"
    container.until(lambda: container.within("sh", "-c", gone).returncode == 0, "it is reaped")
    say("its first process is tini, nobody in it is root or has a capability, orphans are reaped")
    told = container.within("holdfast", "ssh", "web", "--", "echo kept >/persist/mark && sync")
    assert told.returncode == 0, told
    return web


def second_life(container: Container, web: dict[str, Any]) -> None:
    """The same volume: the VM is the same, jobs are not run again, and the late one had been given its time."""
    again = container.ready("web")
    assert {key: again[key] for key in ("uid", "ssh", "generation")} == {
        key: web[key] for key in ("uid", "ssh", "generation")
    }
    kept = container.within("holdfast", "ssh", "web", "--", "cat", "/persist/mark")
    assert kept.stdout == "kept\n", kept
    for job, said in (("hello", "hello from Linux"), ("late", "to its end")):
        told = container.within("holdfast", "job", "history", job, "-o", "json")
        assert [run["phase"] for run in json.loads(told.stdout)] == ["succeeded"], told
        assert said in container.within("holdfast", "logs", job).stdout


def trial() -> None:
    """Build the image and run it, apart from this host's mounts and processes."""
    tiny = image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2")
    packages = fetched()
    say("the Python packages are here")
    own = Path(
        "/var/lib/containers"
    )  # buildah's memory of what it has copied: no option names another place
    own.mkdir(exist_ok=True)
    done("mount", "-t", "tmpfs", "tmpfs", own)
    store = Store(TRIAL)
    store.build(packages)
    say("the image is built")
    volume, desired = TRIAL / "volume", TRIAL / "desired"
    for directory in (volume, desired):
        directory.mkdir(mode=0o755)
    os.chown(volume, USER, USER)
    volume.chmod(0o700)
    shutil.copy(tiny, desired / "tiny.qcow2")
    for name, text in DOCUMENTS.items():
        (desired / name).write_text(text)
    root, config = store.mounted()
    with running(root, config, TRIAL) as container:
        web = first_life(container)
        (desired / "late.yaml").write_text(LATE)
        container.until(lambda: container.items().get("late", {}).get("phase") == "running", "late")
        assert container.stop() == 0, container.log()
    assert WHY in container.log(), "it was not powered down"
    say("it was stopped, and its VM powered down")
    with running(root, config, TRIAL) as container:
        second_life(container, web)
        say("the next one on the same volume has brought the VM back, and a job had had its time")
        assert container.stop() == 0, container.log()


@contextmanager
def alone() -> Iterator[None]:
    """Nobody else tries it in this checkout, and what was made below TRIAL is gone before and after."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            shutil.rmtree(TRIAL, ignore_errors=True)
            TRIAL.mkdir(mode=0o755)
            yield
        finally:
            shutil.rmtree(TRIAL)


def main() -> int:
    """Print what came of it."""
    if sys.argv[1:] == ["apart"]:
        trial()
        return 0
    if os.geteuid() != 0:
        print("making mounts and a base image takes root")
        return 1
    # What is begun is taken away also where somebody has enough of it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    again = [sys.executable, "-m", "tests.container", "apart"]
    with alone():
        whole = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "--", *APART, "unchanged",
                "sh", "-c", PRIVATELY, "sh", *again,
            ],
            env={**os.environ, "TMPDIR": str(TRIAL)},
        )  # fmt: skip
        try:
            status = whole.wait()
        finally:
            end(whole)
    if status == 0:
        say("everything is taken away")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
