"""Where a script works in its guest: a directory in the login's home, filled over SFTP and read over SFTP.

What is started there, and what its files mean, `wrapper.sh` says. This is the side of the host; it blocks, so it
belongs into a thread. A home outlives a reboot of the guest where the guest's disk does, and nobody but the login (and
root) can look into the directory.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from posixpath import dirname
from typing import Protocol

from agent.errors import BadInput
from agent.guest.content import pieces
from agent.guest.sftp import (
    CREATE,
    READ,
    TRUNCATE,
    WRITE,
    Broken,
    NoSuchFile,
    Refused,
    Sftp,
    Stream,
)
from state.work import Content, Look

_ROOT = b".holdfast"
_BALLAST = 256 << 10
_CODE_ROOM = b" " * 63 + b"\n"
_DIRECTORY_MODE = 0o755
_UNFINISHED = re.compile(rb"\.holdfast-[0-9a-f]{16}")
"""The name of a file that is on its way into the guest."""
_MOST_ENTRIES = 10_000
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = (1 << 63) - 1
"""Bytes of a file: no file system holds a larger one."""
_QUIET_LOOKS = 10
"""Looks that found nothing new, after which it is asked whether anybody still watches the script."""
_BOOT = (
    "/bin/sh -c 'b=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || "
    "kstat -p unix:0:system_misc:boot_time 2>/dev/null || who -b); echo; echo holdfast boot $b'"
)
"""What Linux, illumos and any other say of their boot. A login shell may be of any kind, so all of it is one word for
`/bin/sh`; what else the shell prints is passed over."""


class Line(Protocol):
    """One authenticated connection to a guest. Every method raises Broken or Refused."""

    def ask(self, command: str, lasting: bytes = b"") -> bytes:
        """Have the login's shell run the command; the rest of the first line of its output that begins with
        `holdfast `. Its end is waited for, unless that is `lasting`."""

    def sftp(self) -> Stream:
        """The guest's SFTP server."""

    def cut(self) -> None:
        """Let whatever waits for the other side fail at once. From any thread; returns at once."""

    def close(self) -> None:
        """Log out, after `cut`."""


class Workplace:
    """The runs of one guest, seen through one login."""

    def __init__(self, line: Line) -> None:
        self._line = line
        told = line.ask(_BOOT)
        self.boot = sha256(told).hexdigest()[:32]
        self.sftp = self._open_sftp()
        self._seen: dict[str, _Remembered] = {}

    def _open_sftp(self) -> Sftp:
        try:
            return Sftp(self._line.sftp())
        except Broken as error:
            # Either the line is broken, or only what answers on it.
            self._line.ask(_BOOT)
            raise Refused(f"its SFTP server does not work: {error}") from error

    def upload(
        self,
        run: str,
        script: Content,
        env: Mapping[str, str],
        files: Sequence[tuple[str, Content, int]],
    ) -> None:
        """See Session.upload."""
        here, settings = _directory(run), _settings(env)
        self._make(_ROOT, 0o700)
        again = self._is_there(here)
        self._make(here, 0o700)
        if self._is_there(here + b"/begun"):
            return
        if again:
            for above in sorted({here, *(os.fsencode(dirname(path)) for path, _, _ in files)}):
                self._clear(above)
        for path, content, mode in files:
            where = os.fsencode(path)
            self._make_all(os.fsencode(dirname(path)))
            self._put(where, content, mode)
        for name, content, mode in (
            (b"script", script, 0o755),
            (b"env", settings, 0o600),
            (b"ballast", os.urandom(_BALLAST), 0o600),
            (b"code.new", _CODE_ROOM, 0o600),
            (b"output", b"", 0o600),
            # The last, for without it nothing begins.
            (b"wrapper", _wrapper(), 0o600),
        ):
            self._put(here + b"/" + name, content, mode)

    def begin(self, run: str) -> bool:
        """See Session.begin."""
        here = _directory(run)
        if not self._is_there(here + b"/wrapper"):
            raise Refused("its script is not there")
        told = self._line.ask(f"exec /bin/sh {here.decode()}/wrapper begin {self.boot}", b"begun")
        if told in (b"begun", b"already"):
            # Also where the script has taken the directory away before anybody looks.
            self._seen.setdefault(run, _Remembered()).begun = True
            return told == b"begun"
        raise Refused(told.removeprefix(b"refused ").decode("utf-8", "replace"))

    def look(self, run: str, offset: int, at_most: int) -> Look:
        """See Session.look. Two questions where there is nothing new, three where there is."""
        here = _directory(run)
        seen = self._seen.setdefault(run, _Remembered())
        if not seen.begun:
            if not self._is_there(here + b"/begun"):
                return Look(begun=False)
            seen.begun = True
        try:
            return self._looked(here, seen, offset, at_most)
        except NoSuchFile:
            # The script, or a reboot, has taken the directory away.
            self._seen[run] = _Remembered()
            return Look(begun=self._is_there(here + b"/begun"), size=offset, alive=False)

    def _looked(self, here: bytes, seen: _Remembered, offset: int, at_most: int) -> Look:
        # The code first: what is in the file by then is all that belongs to it.
        ended = self._ended(here, seen)
        if seen.output is None:
            seen.output = self.sftp.open(here + b"/output", READ)
        size = self.sftp.size(seen.output)
        if ended is not None and ended[1] is not None:
            size = ended[1]
        if size > _LARGEST:
            raise Refused("it says that the output of its script is larger than a file can be")
        length = min(at_most, size - offset)
        data = self.sftp.read(seen.output, offset, length) if length > 0 else b""
        alive = ended is not None or self._alive(here, seen, size)
        return Look(True, data, size, ended[0] if ended else None, alive)

    def _ended(self, here: bytes, seen: _Remembered) -> tuple[int, int | None] | None:
        """The exit code and the final size; a size that the guest could not tell is the one of the first look after."""
        if seen.ended is None:
            with suppress(NoSuchFile):
                told = self._small(here + b"/code").split()
                if len(told) < 2 or not told[0].isdigit() or int(told[0]) > 255:
                    raise Refused("the file with the exit code of its script was tampered with")
                size = int(told[1]) if told[1].isdigit() else self.sftp.stat(here + b"/output").size
                seen.ended = int(told[0]), size
        return seen.ended

    def _alive(self, here: bytes, seen: _Remembered, size: int) -> bool:
        """Whether somebody will write the exit code, as far as that can be told."""
        seen.quiet = seen.quiet + 1 if size == seen.size else 0
        first, seen.size = seen.size < 0, size
        if not first and seen.quiet % _QUIET_LOOKS != 1:
            return True
        try:
            boot = self._small(here + b"/begun/boot").strip()
            pid = self._small(here + b"/begun/pid").strip()
        except NoSuchFile:
            # It is just being written, or it was taken away with all the rest.
            return self._is_there(here + b"/begun")
        if boot and boot != self.boot.encode():
            return False
        if not pid.isdigit() or self._is_there(b"/proc/" + pid):
            return True
        # Where nothing is seen of processes, nothing is known of this one; and it may have ended well just now.
        return not self._is_there(b"/proc/self") or self._is_there(here + b"/code")

    # Files of the guest

    def _small(self, path: bytes) -> bytes:
        handle = self.sftp.open(path, READ)
        try:
            return self.sftp.read(handle, 0, 1024)
        finally:
            self.sftp.shut(handle)

    def _is_there(self, path: bytes) -> bool:
        try:
            self.sftp.stat(path)
        except NoSuchFile:
            return False
        return True

    def _make(self, path: bytes, mode: int) -> None:
        try:
            self.sftp.mkdir(path, mode)
        except Refused as error:
            if not self._is_there(path):
                raise Refused(f"making {_shown(path)}: {error}") from error

    def _make_all(self, path: bytes) -> None:
        """The directory and what is missing above it."""
        if path not in (b"", b"/") and not self._is_there(path):
            self._make_all(os.fsencode(dirname(os.fsdecode(path))))
            self._make(path, _DIRECTORY_MODE)

    def _clear(self, directory: bytes) -> None:
        """Remove what an upload that was cut off has left half: there may be no room for it twice."""
        with suppress(Refused):
            found = islice(self.sftp.entries(directory), _MOST_ENTRIES)
            for name in [name for name, _ in found if _UNFINISHED.fullmatch(name)]:
                self.sftp.remove(directory + b"/" + name)

    def _put(self, path: bytes, content: Content, mode: int) -> None:
        """Whole or not at all, under a name of its own until then: what a lost connection was writing is written on for
        a moment, and may not be written into."""
        above = path.rpartition(b"/")[0]
        beside = above + b"/.holdfast-" + secrets.token_hex(8).encode()
        try:
            handle = self.sftp.open(beside, WRITE | CREATE | TRUNCATE, 0o600)
            try:
                at = 0
                for piece in pieces(content):
                    self.sftp.write(handle, piece, at)
                    at += len(piece)
            finally:
                self.sftp.shut(handle)
            self.sftp.chmod(beside, mode)
            self.sftp.replace(beside, path)
        except Refused as error:
            with suppress(Refused):
                self.sftp.remove(beside)
            raise Refused(f"writing {_shown(path)}: {error} (its disk may be full)") from error


class _Remembered:
    """What earlier looks at a run have found, and need not find again."""

    def __init__(self) -> None:
        self.begun = False
        self.output: bytes | None = None
        self.ended: tuple[int, int | None] | None = None
        self.size = -1
        self.quiet = 0


@cache
def _wrapper() -> bytes:
    return Path(__file__).with_name("wrapper.sh").read_bytes()


def _directory(run: str) -> bytes:
    if not _RUN.fullmatch(run):
        raise BadInput(f"naming a directory after run {run!r}: it is no name of a run")
    return _ROOT + b"/" + run.encode()


def _settings(env: Mapping[str, str]) -> bytes:
    """Commands for any POSIX sh that set the environment. With `command`, a shell goes on that will not have one of its
    own variables set."""
    lines = []
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise BadInput(f"setting the variable {name!r}: no shell can have it")
        quoted = os.fsencode(value).replace(b"'", b"'\\''")
        lines.append(b"command export %s='%s'\n" % (name.encode(), quoted))
    return b"".join(lines)


def _shown(path: bytes) -> str:
    text = path.decode("utf-8", "replace")
    return "".join(one if one.isprintable() else "�" for one in text)
