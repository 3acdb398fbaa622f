"""A folder on the host for files out of a guest, which may give them any name and any content.

    into/root/report/unit.xml      /root/report/unit.xml of the guest

No name leads out of the folder, none is one of the host's special ones, none is longer than a file system takes, and no
two differ by case alone. A file is there under its name when it is whole, and not before.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from agent.errors import RetryLater
from state.work import Artifact

_LONGEST_NAME = 180
"""Bytes: a mark is added to it, and some file systems take 255 UTF-16 units, some 143 bytes (eCryptfs)."""
_DEEPEST = 48
_LONGEST_PATH = 2048
_NEW_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
PARTIAL = ".partial"
"""What the name of a file ends in that was cut off."""


class Arriving:
    """A file on its way into the folder."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self.partial = False
        self._digest = sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self.descriptor, left) :]

    def digest(self) -> str:
        return self._digest.hexdigest()


class Folder:
    """The folder `into`, made anew: what an earlier try left there is removed. Every method raises RetryLater when this
    host cannot write."""

    def __init__(self, into: Path) -> None:
        self._into = into
        self._taken: dict[str, str] = {}
        with self._writing(into):
            with suppress(FileNotFoundError):
                shutil.rmtree(into)
            into.mkdir(mode=0o700, parents=True)
            self._root = os.open(into, _NEW_DIRECTORY)

    def close(self) -> None:
        os.close(self._root)

    @contextmanager
    def receive(self, guest_path: bytes) -> Iterator[Arriving]:
        """Fill a file; it is removed when the block raises."""
        beside = f".{token_hex(8)}.part"
        with self._writing(beside):
            descriptor = os.open(beside, _NEW_FILE, 0o600, dir_fd=self._root)
        try:
            arriving = Arriving(descriptor)
            with self._writing(beside):
                yield arriving
                os.fsync(descriptor)
                self._land(beside, guest_path, arriving)
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self._root)

    def artifact(self, guest_path: bytes, arrived: Arriving) -> Artifact:
        """What is known of a file that was received."""
        name = self._name(guest_path, arrived.partial)
        shown = os.fsdecode(guest_path)
        return Artifact(shown, name, arrived.size, arrived.digest())

    def _land(self, beside: str, guest_path: bytes, arriving: Arriving) -> None:
        *above, name = self._name(guest_path, arriving.partial).split("/")
        at = os.dup(self._root)
        try:
            for one in above:
                with suppress(FileExistsError):
                    os.mkdir(one, 0o700, dir_fd=at)
                inner = os.open(one, _NEW_DIRECTORY, dir_fd=at)
                os.close(at)
                at = inner
            # A link fails where something lies; a rename would put it away.
            os.link(beside, name, src_dir_fd=self._root, dst_dir_fd=at, follow_symlinks=False)
            os.fsync(at)
        finally:
            os.close(at)

    def _name(self, guest_path: bytes, partial: bool) -> str:
        """Below the folder, with `/` between components: the guest's path where that is harmless and nobody else's."""
        parts = [component(one) for one in guest_path.split(b"/") if one]
        name = "/".join(parts) + PARTIAL * partial
        mark = sha256(guest_path).hexdigest()[:16]
        if not parts or len(parts) > _DEEPEST or len(os.fsencode(name)) > _LONGEST_PATH:
            name = mark + PARTIAL * partial
        owner = os.fsdecode(guest_path)
        if not self._claim(name, owner):
            name = f"~{mark}/{parts[-1] if parts else mark}{PARTIAL * partial}"
            self._claim(name, owner)
        return name

    def _claim(self, name: str, owner: str) -> bool:
        """Take a name for a guest's path, as a file system sees it that knows no case: not where another file, or a
        directory of another, has it."""
        parts = unicodedata.normalize("NFC", name).casefold().split("/")
        steps = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        spelled = name.split("/")
        owners = [f"directory {'/'.join(spelled[:end])}" for end in range(1, len(spelled))]
        owners.append(f"file {owner}")
        if any(self._taken.get(step, own) != own for step, own in zip(steps, owners, strict=True)):
            return False
        self._taken.update(zip(steps, owners, strict=True))
        return True

    @contextmanager
    def _writing(self, what: object) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RetryLater(
                f"writing {what} below {self._into}: {error.strerror or error}",
                hint="make room on this host's disk",
            ) from error


def component(name: bytes) -> str:
    """One component of a guest's path as one of ours: what is not printable UTF-8, and what means something to a path,
    is written as `%` and two digits for each byte. No two names become the same, but for those that are too long, which
    are cut and told apart by a digest."""
    safe = "".join(map(_safe, name.decode("utf-8", "surrogateescape")))
    if safe in (".", ".."):
        safe = safe.replace(".", "%2E")
    if safe.startswith("~"):
        safe = "%7E" + safe[1:]
    if len(safe.encode()) > _LONGEST_NAME:
        cut = safe.encode()[: _LONGEST_NAME - 20].decode("utf-8", "ignore")
        safe = f"{cut}~{sha256(name).hexdigest()[:16]}"
    return safe


def _safe(character: str) -> str:
    if character.isprintable() and character not in "%/\\:":
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
