"""Runs commands of the program in forks of one process that has imported everything: a start costs nothing then.

`start` and `call` are what tests use; `python -m tests.zygote` is the process, which ends with its socket. A command is
a process of its own with its own standard streams, environment and directory, as if it had been started by its name.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_DEADLINE = 300.0
_LARGEST = 1 << 20
LATE = (
    *("aiohttp.web", "anyio._backends._asyncio", "paramiko", "psutil", "pycdlib", "qemu.qmp"),
    *("rich.console", "rich.live", "zstandard"),
)
"""What the program imports only once it needs it."""


class Forked:
    """A command that runs: what `subprocess.Popen` has of these names."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(self._status.recv(64))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Its pid is nobody else's until its end has been waited for."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: IO[bytes],
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> Forked:
    """One command, `holdfast` left out."""
    request = {"words": [*words], "env": dict(env), "cwd": str(cwd)}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        files = [file.fileno() for file in (stdin, stdout, stderr, theirs)]
        socket.send_fds(_zygote(os.getpid()), [json.dumps(request).encode()], files)
    ours.settimeout(_DEADLINE)
    pid = int(ours.recv(64))
    ours.settimeout(None)
    return Forked(pid, ours)


def call(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """One command to its end."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
    ):
        given.write(stdin)
        given.seek(0)
        process = start(words, env=env, cwd=cwd, stdin=given, stdout=said, stderr=complained)
        try:
            status = process.wait(_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess([*words], status, said.read(), complained.read())


@cache
def _zygote(_of: int) -> socket.socket:
    """The socket of this process's own zygote, which ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    ours.settimeout(_DEADLINE)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def import_everything() -> None:
    """Everything that a command may import."""
    for name in ("agent", "state"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)


def serve(requests: socket.socket) -> None:
    """Fork for each request, until the socket is closed."""
    import_everything()
    while True:
        message, files, _, _ = socket.recv_fds(requests, _LARGEST, 4)
        if not message:
            return
        if not os.fork():
            requests.close()
            _look_after(json.loads(message), files)
        for file in files:
            os.close(file)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _look_after(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Fork the command, and tell first its pid and then its status; it is a zombie until whoever asked has heard."""
    *streams, told = files
    pid = os.fork()
    if not pid:
        os.close(told)
        _become(request, streams)
    for file in streams:
        os.close(file)
    with socket.socket(fileno=told) as status, suppress(OSError):
        status.send(b"%d" % pid)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        by_itself = ended.si_code == os.CLD_EXITED
        status.send(b"%d" % (ended.si_status if by_itself else -ended.si_status))
        status.recv(1)
    os._exit(0)


def _become(request: dict[str, Any], files: list[int]) -> NoReturn:
    code = 70
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.argv = ["holdfast", *request["words"]]
        program = importlib.import_module("agent.cli")
        try:
            program.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        with suppress(Exception):
            sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - as an interpreter would tell it
        traceback.print_exc()
        code = 1
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
