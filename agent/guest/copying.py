"""Copies files and directories into a guest and out of it, as a person asks for it; the guest may lie about every name.

A file that is on its way to the host lies beside its place until it is whole. It refuses to follow links below a
directory, on either side: where one leads is not what was asked for.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.errors import BadInput, GuestRefused, SessionLost
from agent.guest.sftp import CREATE, READ, TRUNCATE, WRITE, Broken, NoSuchFile, Refused, Sftp
from state.spec.words import printable

_PIECE = 1 << 20
_DEEPEST = 64
"""Directories in each other; a guest may have no end of them."""

MOST_NAMES = 100_000
"""In one directory of a guest, which may have no end of them either."""
_PERMISSIONS = 0o777
"""What is taken of a file's mode."""


class Copying:
    """One copy after the other, over one conversation with the guest `name`. `told` hears of what is left out. Every
    method raises GuestRefused, SessionLost, and BadInput for what is wrong on this host."""

    def __init__(self, guest: Sftp, name: str, told: Callable[[str], None]) -> None:
        self._guest, self._name, self._told = guest, name, told

    def is_directory(self, path: bytes) -> bool:
        """Whether there is a directory in the guest."""
        with self._asking("looking at", path):
            try:
                return stat.S_ISDIR(self._guest.stat(path).mode or 0)
            except NoSuchFile:
                return False

    def upload(self, source: Path, target: bytes, *, recursive: bool) -> None:
        """Copy a file, or with `recursive` a directory, to `target` itself, with its permission bits and no other
        of its mode."""
        with _local("reading", source):
            mode = source.stat().st_mode
        if not stat.S_ISDIR(mode):
            self._upload_file(source, target, mode)
        elif recursive:
            self._upload_tree(source, target, mode)
        else:
            raise BadInput(f"copying {source}: it is a directory", hint="say -r")

    def _upload_file(self, source: Path, target: bytes, mode: int) -> None:
        with _local("reading", source):
            file = source.open("rb")
        with file, self._asking("writing", target):
            handle = self._guest.open(target, WRITE | CREATE | TRUNCATE, mode & _PERMISSIONS)
            at = 0
            while piece := _read(file, source):
                self._guest.write(handle, piece, at)
                at += len(piece)
            self._guest.shut(handle)
            self._guest.chmod(target, mode & _PERMISSIONS)

    def _upload_tree(self, source: Path, target: bytes, mode: int) -> None:
        if not self.is_directory(target):
            with self._asking("making", target):
                self._guest.mkdir(target, mode & _PERMISSIONS | stat.S_IRWXU)
        with _local("reading", source):
            inside = sorted(os.listdir(source))
        for name in inside:
            path, below = source / name, _joined(target, os.fsencode(name))
            with _local("reading", path):
                mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                self._upload_tree(path, below, mode)
            elif stat.S_ISREG(mode):
                self._upload_file(path, below, mode)
            else:
                self._told(f"{path} was left out: it is no file")

    def download(self, source: bytes, target: Path, *, recursive: bool) -> None:
        """Copy a file, or with `recursive` a directory, to `target` itself. Of its mode a file has the permission bits
        that the umask leaves, and no other: setuid is what a guest would like it to have."""
        with self._asking("reading", source):
            mode = self._guest.stat(source).mode or 0
        if not stat.S_ISDIR(mode):
            self._download_file(source, target, mode)
        elif recursive:
            self._download_tree(source, target, _DEEPEST)
        else:
            raise BadInput(f"copying {self._shown(source)}: it is a directory", hint="say -r")

    def _download_file(self, source: bytes, target: Path, mode: int) -> None:
        with self._asking("reading", source):
            handle = self._guest.open(source, READ)
            with _arriving(target, mode & _PERMISSIONS) as file:
                at = 0
                while piece := self._guest.read(handle, at, _PIECE):
                    file.write(piece)
                    at += len(piece)
            self._guest.shut(handle)

    def _download_tree(self, source: bytes, target: Path, depth: int) -> None:
        if depth == 0:
            raise BadInput(f"copying {self._shown(source)}: it is too deep")
        with _local("making", target):
            target.mkdir(exist_ok=True)
        for name, mode in sorted(self._listed(source).items()):
            path = _joined(source, name)
            below = target / os.fsdecode(name)
            with _local("writing", below):
                linked = below.is_symlink()
            if linked:
                self._told(f"{self._shown(path)} was left out: {below} is a link")
            elif stat.S_ISDIR(mode):
                self._download_tree(path, below, depth - 1)
            elif stat.S_ISREG(mode):
                self._download_file(path, below, mode)
            else:
                self._told(f"{self._shown(path)} was left out: it is no file")

    def _listed(self, directory: bytes) -> dict[bytes, int]:
        """The mode of what a directory of the guest holds, by name: a name is one component, and told once."""
        tried, found = f"copying {self._shown(directory)}", dict[bytes, int]()
        with self._asking("listing", directory), closing(self._guest.entries(directory)) as inside:
            for name, attributes in inside:
                if b"/" in name or b"\0" in name or name in (b"", b".", b".."):
                    raise GuestRefused(f"{tried}: it holds a name that is none")
                if name in found:
                    said = printable(name.decode("utf-8", "replace"))
                    raise GuestRefused(f"{tried}: the guest tells of {said} twice")
                if len(found) == MOST_NAMES:
                    raise GuestRefused(
                        f"{tried}: it holds more than {MOST_NAMES} names",
                        hint="pack it in the guest, and copy that",
                    )
                found[name] = attributes.mode or 0
        return found

    def _shown(self, path: bytes) -> str:
        return f"{self._name}:{printable(path.decode('utf-8', 'replace'))}"

    @contextmanager
    def _asking(self, doing: str, path: bytes) -> Iterator[None]:
        tried = f"{doing} {self._shown(path)}"
        try:
            yield
        except Refused as error:
            raise GuestRefused(f"{tried}: {error}") from error
        except Broken as error:
            raise SessionLost(f"{tried}: the connection broke: {error}") from error


def _joined(directory: bytes, name: bytes) -> bytes:
    return name if directory in (b"", b".") else directory.rstrip(b"/") + b"/" + name


def _read(file: BinaryIO, source: Path) -> bytes:
    with _local("reading", source):
        return file.read(_PIECE)


@contextmanager
def _arriving(target: Path, mode: int) -> Iterator[BinaryIO]:
    """A file that is there under its name when the block has ended well, with what the umask leaves of `mode`. What is
    no file, such as a pipe, is written to as it is."""
    with _local("writing", target):
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        place = target.resolve()
        beside = place.with_name(f".{place.name[:100]}.{secrets.token_hex(4)}.part")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as file:
                yield file
            beside.rename(place)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _local(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{doing} {path}: {error.strerror or error}") from error
