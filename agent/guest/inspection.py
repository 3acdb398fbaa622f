"""Has `qemu-img` look at a qcow2 file: the second opinion on what its header says, and whether all is there that its
tables lead to, from QEMU's own reader.

That reader is C, and the file is a stranger's: it runs as a user who owns nothing, without capabilities, without a
network where the host lets us take that away, and with little memory and time, and it is given the one file alone, open
for reading. It refuses nothing that `qcow2` should have refused before.

    unshare   a network namespace with nothing in it
    setpriv   another user and group where we are root, no capabilities, no new privileges
    prlimit   memory, processor time, open files, and what it may write
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any, BinaryIO

from agent.guest.qcow2 import NotUsable
from state.spec.words import excerpt

MEMORY = 256 << 20
"""Bytes of address space: five times what a sound image takes, whose tables QEMU bounds by 32 MiB."""
PROCESSOR = 10
"""Seconds of processor time; a sound image takes hundredths."""
PATIENCE = 30.0
"""Seconds after which it is ended, whatever it waits for."""
SAYS = 1 << 20
"""Bytes that it may say."""
_FILES = 32
_STACK = 1 << 20
"""Bytes of address space for each of its threads, of which there are more where a disk is slow; 8 MiB by default."""
_THRIFT = {"MALLOC_ARENA_MAX": "1"}
"""mallopt(3): otherwise glibc takes 64 MiB of address space for a thread, and the next one finds none."""
_PROGRAM = "qemu-img"
_INFO = ("info", "-U", "--output=json", "-f", "qcow2", "/dev/stdin")
_AS_IT_IS = {
    "driver": "qcow2",
    "backing": None,
    "l2-cache-size": 1 << 20,
    "refcount-cache-size": 1 << 20,
    "file": {"driver": "file", "filename": "/dev/stdin"},
}
_CHECK = ("check", "-U", f"json:{json.dumps(_AS_IT_IS)}")
_LEAKS = 3
"""How `qemu-img check` ends where nothing leads to some clusters, which harms nobody: qemu-img(1)."""


def check(descriptor: int, expected: int, run_as: int | None) -> None:
    """Have the file behind `descriptor` (which others may read) looked at: it is to be a qcow2 of `expected` bytes that
    needs no other file, and of which nothing is missing. `run_as`: the user who looks, None where we are no root.
    Raises NotUsable and OSError."""
    status, told, complained = _asked(_INFO, descriptor, run_as)
    if status:
        raise NotUsable(f"{_PROGRAM} does not read it: {_why(status, complained)}")
    found = _object(told)
    _judge(found, expected)
    # One that was not closed counts its clusters wrongly, which harms nobody who only reads it.
    if not found.get("dirty-flag"):
        _check_whole(descriptor, run_as)


def _check_whole(descriptor: int, run_as: int | None) -> None:
    """Raises NotUsable where tables lead to what is not in the file, as in one that was cut short."""
    status, _, complained = _asked(_CHECK, descriptor, run_as)
    if status not in (0, _LEAKS):
        first, _, _ = complained.partition(b"\n")
        if status < 0:
            raise NotUsable(f"{_PROGRAM} did not come to an end with it: {_why(status, first)}")
        raise NotUsable(f"it is damaged, or was cut short: {_PROGRAM} says {_why(status, first)}")


def _asked(what: Sequence[str], descriptor: int, run_as: int | None) -> tuple[int, bytes, bytes]:
    """How `qemu-img` ends that is asked that, what it says and what it complains of. Raises NotUsable."""
    # Files in memory: what it writes to them is limited, which a pipe is not.
    with _in_memory("told") as told, _in_memory("complained") as complained:
        try:
            status = subprocess.run(
                _command(what, run_as),
                stdin=descriptor,
                stdout=told,
                stderr=complained,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **_THRIFT},
                cwd="/",
                start_new_session=True,
                timeout=PATIENCE,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise NotUsable(f"{_PROGRAM} did not come to an end with it") from error
        return status, _content(told), _content(complained)


def prepare() -> None:
    """Raises NotUsable where there is nothing to look with, so that nothing is downloaded for that."""
    if shutil.which(_PROGRAM) is None:
        raise NotUsable(f"there is no {_PROGRAM} to look at it with (Debian: qemu-utils)")


def _command(what: Sequence[str], run_as: int | None) -> list[str]:
    words = [*apart(), "setpriv"]
    if run_as is not None:
        words += [f"--reuid={run_as}", f"--regid={run_as}", "--clear-groups"]
    if os.geteuid() == 0:
        words += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    words += ["--no-new-privs", "--", "prlimit", "--core=0:0", f"--as={MEMORY}:{MEMORY}"]
    words += [f"--cpu={PROCESSOR}:{PROCESSOR}", f"--fsize={SAYS}:{SAYS}"]
    words += [f"--nofile={_FILES}:{_FILES}", f"--stack={_STACK}:{_STACK}", "--"]
    return [*words, _PROGRAM, *what]


@cache
def apart() -> tuple[str, ...]:
    """The words that take the network away from a command; none where the host does not let us."""
    words = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--user", "--net")
    tried = subprocess.run([*words, "--", "true"], capture_output=True, check=False)
    return (*words, "--") if tried.returncode == 0 else ()


def _judge(told: dict[str, Any], expected: int) -> None:
    data = (told.get("format-specific") or {}).get("data") or {}
    for wrong, why in (
        (told.get("format") != "qcow2", f"is a {told.get('format')} file"),
        ("backing-filename" in told, "names a backing file"),
        ("data-file" in data, "keeps its data in another file"),
        (told.get("encrypted"), "is encrypted"),
        (data.get("corrupt"), "is marked as corrupt"),
        (told.get("virtual-size") != expected, f"has {told.get('virtual-size')} bytes for a guest"),
    ):
        if wrong:
            raise NotUsable(f"{_PROGRAM} says that it {why}")


def _why(status: int, said: bytes) -> str:
    """Its last words, or how it ended."""
    lines = [line for line in said.decode(errors="replace").split("\n") if line.strip()]
    if not lines:
        return f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
    last = lines[-1].removeprefix(f"{_PROGRAM}: ").removeprefix("Could not open '/dev/stdin': ")
    return excerpt(last)


def _in_memory(name: str) -> BinaryIO:
    return open(os.memfd_create(name), "r+b", buffering=0)


def _content(file: BinaryIO) -> bytes:
    return os.pread(file.fileno(), SAYS, 0)


def _object(said: bytes) -> dict[str, Any]:
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {}
