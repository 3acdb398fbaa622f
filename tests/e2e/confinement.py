"""Asserts on a QEMU process from outside: what it may do, whom it listens to, and who can read its files."""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
from pathlib import Path

from agent.paths import InstancePaths, StatePaths

_TCP_LISTEN = "0A"
_DENY_ALL = "0" * 16


def assert_confined(pid: int, *, run_as: int | None, groups: str = "") -> None:
    """It has the user of its machine, no capability that it could ever use, no new privileges, all of its system calls
    filtered, its own session, and limits. `run_as` None: the agent is not root, and the user is ours."""
    status = _status(pid)
    uid = os.geteuid() if run_as is None else run_as
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["CapEff"] == status["CapPrm"] == status["CapAmb"] == _DENY_ALL
    if run_as is not None:
        assert status["Gid"].split() == [str(run_as)] * 4
        assert status["Groups"] == groups
        assert status["CapInh"] == status["CapBnd"] == _DENY_ALL
    assert os.getsid(pid) == pid
    limits = _limits(pid)
    assert limits["Max core file size"] == ("0", "0")
    assert int(limits["Max open files"][1]) <= 4096
    assert limits["Max file size"][0] != "unlimited"
    assert int(limits["Max locked memory"][1]) <= 1 << 20
    if run_as is not None:
        assert int(limits["Max processes"][1]) <= 1024
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert set(_environment(pid)) <= {"PATH", "LC_ALL"}


def assert_listens_only_on(pid: int, *ports: int) -> None:
    """The process listens on these TCP ports of 127.0.0.1 and on no other port or address."""
    assert listening(pid) == {("127.0.0.1", port) for port in ports}


def listening(pid: int) -> set[tuple[str, int]]:
    """Where the process listens for TCP; an IPv6 address in hexadecimal digits."""
    inodes = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _TCP_LISTEN and f"socket:[{columns[9]}]" in inodes:
                address, port = columns[1].split(":")
                if table == "tcp":
                    address = socket.inet_ntoa(struct.pack("=I", int(address, 16)))
                found.add((address, int(port, 16)))
    return found


def open_files(pid: int) -> dict[str, bool]:
    """The regular files that the process has open, by their paths, and whether it may write to each."""
    found: dict[str, bool] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if stat.S_ISREG(link.stat().st_mode):
            told = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            flags = int(re.findall(r"^flags:\s+(\d+)", told, re.MULTILINE)[0], 8)
            path = os.readlink(link)
            found[path] = found.get(path, False) or flags & os.O_ACCMODE != os.O_RDONLY
    return found


def assert_private(instance: InstancePaths) -> None:
    """Nobody but the agent's user can read or enter what belongs to the instance; sockets were so from birth."""
    for directory in (instance.directory, instance.sockets):
        assert directory.lstat().st_mode == stat.S_IFDIR | 0o700
        for path in directory.iterdir():
            mode = path.lstat().st_mode
            assert stat.S_IMODE(mode) == 0o600, f"{path} has mode {mode:o}"
            assert stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
            assert path.lstat().st_uid == os.geteuid()


def assert_state_private(paths: StatePaths) -> None:
    """Nobody else can read or write anything of the state directory but what is public: images and public keys."""
    for path in [paths.root, paths.sockets, *paths.root.rglob("*"), *paths.sockets.rglob("*")]:
        public = path.suffix == ".pub" or path.parent == paths.images
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & (0o022 if public else 0o077) == 0, f"{path} has mode {mode:o}"


def amiss(pid: int, *, within: range | None, addresses: set[str]) -> str:
    """What is wrong with the confinement of a QEMU that somebody else has started; empty where nothing is, and where it
    has just ended. `within`: the users that QEMUs get; `addresses`: where it may listen."""
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
        if within is not None and owner not in within:
            return f"{pid} belongs to {owner}"
        assert_confined(pid, run_as=None if within is None else owner)
        assert {address for address, _ in listening(pid)} <= addresses
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except AssertionError as error:
        return f"{pid}: {error}"
    return ""


def assert_no_secret_in_argv(pid: int, secrets: list[str]) -> None:
    """The command line is for everybody to read."""
    words = Path(f"/proc/{pid}/cmdline").read_text()
    assert not [secret for secret in secrets if secret in words]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _limits(pid: int) -> dict[str, tuple[str, str]]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def _environment(pid: int) -> list[str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return [word.partition(b"=")[0].decode() for word in words if word]
