"""A guest that is a directory of this host: its login's shell is a shell of this host, its SFTP server OpenSSH's own.

It stands where SSH stands, so that what happens behind a login is tried in milliseconds, with every shell there is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from agent.guest.session import GuestSession
from agent.guest.sftp import Broken, Refused
from state.ids import Name

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
_SILENCE = 10.0


class LocalGuest:
    """The guest: a home, and a `/bin/sh` of its own."""

    def __init__(self, home: Path, shell: str = "/bin/sh") -> None:
        if not SFTP_SERVER.exists():
            pytest.fail(f"{SFTP_SERVER} is not there: install what tools/packages-test names")
        self.home, self.shell = home, shell
        self.lines: list[LocalLine] = []
        self.boots = 1
        self.path = os.environ["PATH"]
        home.mkdir(exist_ok=True)

    @property
    def is_busybox(self) -> bool:
        return "busybox" in str(Path(self.shell).resolve())

    def line(self) -> LocalLine:
        made = LocalLine(self)
        self.lines.append(made)
        return made

    async def session(self) -> GuestSession:
        return await GuestSession.open(Name("web"), self.line, 20.0)

    def cut(self) -> None:
        """Every connection breaks."""
        for line in self.lines:
            line.cut()

    def run(self, run: str) -> Path:
        """The directory of a run."""
        return self.home / ".holdfast" / run

    def adopt_shell(self, run: str) -> None:
        """Let the wrapper of a run use the shell of this guest, as if that were its `/bin/sh`."""
        wrapper = self.run(run) / "wrapper"
        if wrapper.exists() and self.shell not in (text := wrapper.read_text()):
            wrapper.write_text(text.replace("/bin/sh", self.shell))

    def reboot(self) -> None:
        """Nothing runs on, and it says another word for its boot."""
        self._kill()
        self.boots += 1

    def end(self) -> None:
        """Kill whatever still runs in it."""
        self._kill()
        for line in self.lines:
            line.end()

    def _kill(self) -> None:
        self.cut()
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Whatever has its working directory in it, and lives."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                at = os.readlink(entry / "cwd").removesuffix(" (deleted)")
                if Path(at).is_relative_to(self.home):
                    found.append(int(entry.name))
        return found


class LocalLine:
    """A `Line` into a LocalGuest."""

    def __init__(self, guest: LocalGuest) -> None:
        self._guest = guest
        self._sockets: list[socket.socket] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._cut = False

    def ask(self, command: str, lasting: bytes = b"") -> bytes:
        words = command.split()
        if words[-2:-1] == ["begin"]:
            self._guest.adopt_shell(words[-3].split("/")[-2])
        stream = self._start(["/bin/sh", "-c", command.replace("/bin/sh", self._guest.shell)])
        said = b""
        while b"\nholdfast " not in b"\n" + said or not said.endswith(b"\n"):
            try:
                piece = stream.recv(4096)
            except OSError as error:
                raise Broken(str(error)) from error
            if not piece:
                raise Broken("cut") if self._cut else Refused(f"it says {said!r}")
            said += piece
        (line,) = [one for one in said.split(b"\n") if one.startswith(b"holdfast ")]
        told = line.removeprefix(b"holdfast ")
        return told + b" %d" % self._guest.boots if told.startswith(b"boot ") else told

    def sftp(self) -> socket.socket:
        return self._start([str(SFTP_SERVER)])

    def cut(self) -> None:
        self._cut = True
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def end(self) -> None:
        """Close it, and see every process of it end."""
        self.close()
        for child in self._children:
            child.wait()

    def _start(self, words: list[str]) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            child = subprocess.Popen(
                words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd=self._guest.home,
                env={"PATH": self._guest.path, "HOME": str(self._guest.home), "LANG": "C"},
                start_new_session=True,
            )
        ours.settimeout(_SILENCE)
        self._sockets.append(ours)
        self._children.append(child)
        return ours
