"""What every QEMU process must look like from outside, read from /proc while it runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.paths import StatePaths
from state.ids import Uid


def assert_confined(pid: int) -> None:
    """Own user, no groups, no capabilities, no new privileges, system calls filtered, no core dumps."""
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    if os.geteuid() == 0:
        users = {int(one) for one in status["Uid"].split()}
        assert len(users) == 1
        assert users.isdisjoint({0, os.geteuid()}), "it runs as a user of the host"
        assert status["Gid"].split() == status["Uid"].split()
        assert status["Groups"].split() == []
        assert int(status["CapBnd"], 16) == 0
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    limits = Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert os.getsid(pid) == pid, "it shares a session with its agent"


def assert_listens_on_loopback_only(pid: int) -> None:
    """Every TCP socket on which this process listens is bound to 127.0.0.1."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in sockets:
                listening.append(columns[1].partition(":")[0])
    assert listening, "it forwards nothing"
    assert set(listening) == {"0100007F"}, listening


def assert_private(paths: StatePaths) -> None:
    """Nobody else can read or write anything of the state directory, sockets included."""
    for directory in (paths.root, paths.sockets):
        assert stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0, directory
    for path in [*paths.root.rglob("*"), *paths.sockets.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.suffix == ".pub" or path.parent == paths.images:
            assert mode & 0o022 == 0, path
        else:
            assert mode & 0o077 == 0, path


def assert_no_secret_in_argv(pid: int, secrets: list[str]) -> None:
    """The command line is for everybody to read."""
    words = Path(f"/proc/{pid}/cmdline").read_text()
    assert not [secret for secret in secrets if secret in words]


def assert_one_process_each(processes: dict[int, Uid]) -> None:
    """At most one live QEMU for each uid."""
    uids = list(processes.values())
    assert len(uids) == len(set(uids)), processes
