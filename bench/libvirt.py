"""libvirt on the same machine: a `libvirtd` and a `virtlogd` of its own user session, on a directory of their own.

They have their own configuration, sockets, pid files and caches there (`XDG_*`), run without systemd and D-Bus, and
are gone at the end with every QEMU that they began. A session has no cgroups, no namespaces and no user for each
guest, which makes libvirt quicker than it is as the system's: what confines guests there is not in its figures. For
root the session is that of `nobody`. libvirtd begins QEMUs as nobody's children and waits until somebody has reaped
those that it ended: here that is `bench.reaper`, as elsewhere systemd, since in a container it may be nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from bench.keeper import SWEEPS, idle, resident
from bench.start import MEMORY, blank

LIBVIRTD, VIRTLOGD = "/usr/sbin/libvirtd", "/usr/sbin/virtlogd"
_PYTHON = "/usr/bin/python3"
_CLIENT = Path(__file__).with_name("libvirt_client.py")
_REAPER = Path(__file__).with_name("reaper.py")
_NOBODY = 65534
_QEMU_CONF = 'security_driver = "none"\n'


def installed() -> bool:
    """Whether both daemons and the system's Python module are there."""
    if not (Path(LIBVIRTD).exists() and Path(VIRTLOGD).exists()):
        return False
    asked = [_PYTHON, "-I", "-c", "import libvirt"]
    return subprocess.run(asked, stderr=subprocess.DEVNULL, check=False).returncode == 0


def missing() -> str:
    """Why it cannot be measured here; empty where it can."""
    if not installed():
        return "it is not installed (`bench/packages` names its Debian packages)"
    try:
        with kept() as one:
            one.up(1)
            one.down()
    except (OSError, RuntimeError, ValueError) as error:
        return f"it does not run here: {error}"
    return ""


class Libvirt:
    """One `libvirtd` and its client."""

    name = "libvirt"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._machines = 0

    def up(self, machines: int) -> float:
        """Overlays, definitions and starts; a start has the monitor's answer."""
        self._machines = machines
        return self._session.told("up", machines)

    def ask(self) -> float:
        return sum(self._session.told("ask", self._machines) for _ in range(SWEEPS)) / SWEEPS

    def again(self) -> float:
        """From the exec of a new `libvirtd` until it tells the statistics of all."""
        self._session.told("leave", 0)
        self._session.stop_libvirtd()
        begun = time.perf_counter()
        self._session.start_libvirtd()
        self._session.told("find", self._machines)
        return 1000 * (time.perf_counter() - begun)

    def weight(self) -> float:
        """Of `libvirtd` and `virtlogd`."""
        return resident(self._session.pids)

    def idle(self, seconds: float) -> float:
        return idle(self._session.pids, seconds)

    def down(self) -> float:
        return self._session.told("down", self._machines)


class Session:
    """The daemons, and the client's process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(root),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "XDG_DATA_HOME": str(root / "data"),
            "LIBVIRT_AUTOSTART": "0",  # a client that comes too soon would begin a libvirtd of its own
        }
        # libvirtd takes itself for the system's where it is root's.
        alone = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        self._as_user = alone if os.geteuid() == 0 else []
        self._begun: list[subprocess.Popen[str]] = []
        self._reaper: subprocess.Popen[str] | None = None
        self._client: subprocess.Popen[str] | None = None
        self._virtlogd = self._libvirtd = 0

    def open(self) -> None:
        """Start all of it. The first `libvirtd` looks at QEMU for some seconds, whose answer it keeps."""
        for name in ("run", "config/libvirt", "cache", "data", "guests"):
            (self._root / name).mkdir(mode=0o700, parents=True)
        (self._root / "config/libvirt/qemu.conf").write_text(_QEMU_CONF)
        base = blank(self._root / "base.raw")
        if self._as_user:
            for path in (self._root, *self._root.rglob("*")):
                os.chown(path, _NOBODY, _NOBODY)
        self._reaper = self._start([sys.executable, "-I", str(_REAPER)])
        self._virtlogd = int(self._asked(self._reaper, [*self._as_user, VIRTLOGD]))
        self.start_libvirtd()
        qemu = shutil.which("qemu-system-x86_64") or ""
        words = [str(self._root / "guests"), str(base), qemu, str(MEMORY)]
        self._client = self._start([*self._as_user, _PYTHON, "-I", str(_CLIENT), *words])
        self._line(self._client)

    @property
    def pids(self) -> list[int]:
        return [self._libvirtd, self._virtlogd]

    def start_libvirtd(self) -> None:
        self._libvirtd = int(self._asked(self._reaper, [*self._as_user, LIBVIRTD]))

    def stop_libvirtd(self) -> None:
        """Its guests run on."""
        self._asked(self._reaper, self._libvirtd)

    def told(self, what: str, argument: int) -> float:
        """What the client says that it took. Raises RuntimeError when it has left."""
        return float(self._asked(self._client, [what, argument]))

    def _asked(self, whom: subprocess.Popen[str] | None, said: object) -> str:
        assert whom is not None
        assert whom.stdin is not None
        print(json.dumps(said), file=whom.stdin, flush=True)
        return self._line(whom)

    def _line(self, of: subprocess.Popen[str]) -> str:
        assert of.stdout is not None
        if not (line := of.stdout.readline()):
            raise RuntimeError(f"a process of libvirt's session has left: {self.log()}")
        return line

    def log(self) -> str:
        """The last that all of them have said."""
        return (self._root / "log").read_text()[-2000:]

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        with (self._root / "log").open("a") as log:
            begun = subprocess.Popen(
                words, env=self._environment, cwd="/",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self._begun.append(begun)
        return begun

    def close(self) -> None:
        """End the client, the daemons, and all that they leave."""
        for one in reversed(self._begun):
            if one.poll() is None:
                one.terminate()
            with suppress(subprocess.TimeoutExpired):
                one.wait(10)
            one.kill()
            one.wait()
            for pipe in (one.stdin, one.stdout):
                if pipe is not None:
                    pipe.close()
        for _ in range(5):  # what was forked behind the back of one look is there for the next
            left = [one for one in psutil.process_iter() if self._is_ours(one)]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
            if not left:
                break

    def _is_ours(self, process: psutil.Process) -> bool:
        """What libvirtd begins is nobody's child; this directory is in its environment, as in no other's."""
        try:
            return any(f"{self._root}/" in value for value in process.environ().values())
        except (psutil.Error, OSError):
            return False


@contextmanager
def kept() -> Iterator[Libvirt]:
    """libvirt while the block lasts."""
    with ExitStack() as stack:
        # Its sockets' paths must stay short.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf-lv-")))
        session = Session(root)
        stack.callback(session.close)
        session.open()
        yield Libvirt(session)
