"""Runs commands of the program in forks of one process that has imported everything: a start costs nothing then.

`call` is what tests use; `python -m tests.zygote` is the process, which ends with its socket. A command is a process of
its own with its own standard streams, environment and directory, as if it had been started by its name.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
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
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_DEADLINE = 300.0
_LARGEST = 1 << 20
LATE = (
    *("aiohttp.web", "anyio._backends._asyncio", "paramiko", "psutil", "pycdlib", "qemu.qmp"),
    *("rich.console", "rich.live", "zstandard"),
)
"""What the program imports only once it needs it."""


def call(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """One command, `holdfast` left out, to its end."""
    request = {"words": [*words], "env": dict(env), "cwd": str(cwd)}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
    ):
        given.write(stdin)
        given.seek(0)
        files = [file.fileno() for file in (given, said, complained)]
        zygote = _zygote(os.getpid())
        socket.send_fds(zygote, [json.dumps(request).encode()], files)
        pid = int(zygote.recv(64))
        try:
            status = int(zygote.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            zygote.recv(64)
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
    """Fork for each request, one at a time, until the socket is closed."""
    import_everything()
    while True:
        message, files, _, _ = socket.recv_fds(requests, _LARGEST, 3)
        if not message:
            return
        pid = os.fork()
        if not pid:
            _become(json.loads(message), files, requests)
        for file in files:
            os.close(file)
        requests.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        requests.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any], files: list[int], requests: socket.socket) -> None:
    code = 70
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        requests.close()
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
