"""The files of the image store: each base image once, under the digest of what was downloaded, read-only, whole.

    images/<algorithm>-<hex>[.<decompress>].<format>        the disk, 0444
    images/<algorithm>-<hex>[.<decompress>].<format>.json   what is known of it; written last, it makes the image count
    images/sources/<sha256 of the source>.json              the digest that an unpinned source was seen to hold
    images/.*.part                                          on its way

What is written there says nothing that is believed unseen: a file that is not as it was written counts as not there.
An image that overlays stand on is never written again: other content has another digest, so another name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard, cast

from agent import durable
from agent.guest.landing import Whole
from agent.guest.local import Fingerprint
from agent.guest.qcow2 import MAX_VIRTUAL_SIZE
from state.ids import Digest
from state.observed import BaseImage, StoredImage
from state.spec.resolved import DiskFormat, ImageSpec

_digest = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}").fullmatch
_disk_name = re.compile(
    r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:zstd|gzip|xz))?\.(qcow2|raw)"
).fullmatch
_SEEN_EVERY = 3600.0
"""Seconds for which it is not put down again that an image is wanted."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source that is not pinned held when it was fetched; `fingerprint` of a file."""

    digest: Digest
    fingerprint: Fingerprint | None


class Shelf:
    """The images below one directory, of which this process alone is the writer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sources = directory / "sources"
        self._known: dict[Path, BaseImage] = {}
        self._used: dict[Path, float] = {}

    def find(self, image: ImageSpec, digest: Digest) -> BaseImage | None:
        """The image whose download has that digest, if it is there and as it was when it was put there."""
        disk = self._disk(image, digest)
        known = self._known.get(disk) or _read(disk, image.format, digest)
        try:
            found = disk.stat()
        except OSError:
            return None
        if known is None or not as_put(disk, found):
            return None
        if max(found.st_size, known.virtual_size) > image.max_size:
            return None  # others allow it more
        self._known[disk] = known
        return known

    def fetched(self, source: str) -> Fetched | None:
        """What was put down of a source, if that can be read."""
        told = _object(self._source_file(source))
        digest, prints = told.get("digest"), told.get("fingerprint")
        if not isinstance(digest, str) or not _digest(digest):
            return None
        if isinstance(prints, list) and len(prints) == 3 and all(map(_is_count, prints)):
            return Fetched(Digest(digest), (prints[0], prints[1], prints[2]))
        return Fetched(Digest(digest), None)

    def put(
        self, image: ImageSpec, digest: Digest, whole: Whole, fetched: Fetched | None
    ) -> BaseImage:
        """Take in a whole file. `fetched` is remembered of its source. Raises OSError.

        A disk that lies there already and counts stays, as overlays may stand on it. One that does not count was never
        used, or is damaged: it is replaced, and a machine that runs on it keeps the file that it holds open.
        """
        durable.directory(self._sources)
        disk = self._disk(image, digest)
        if self.find(image, digest) is None:
            self._known.pop(disk, None)
            # One content, one time: a machine that holds the file before open is not taken for one whose base changed.
            if (before := _put_at(disk)) is not None:
                os.utime(whole.path, ns=(before, before))
            whole.path.rename(disk)
            durable.sync_directory(self.directory)
        told = {
            "size": whole.size,
            "modified": disk.stat().st_mtime_ns,
            "virtual_size": whole.virtual_size,
            "source": image.source,
        }
        _write(_beside(disk), told)
        if fetched is not None:
            _write(
                self._source_file(image.source),
                {
                    "source": image.source,
                    "digest": fetched.digest,
                    "fingerprint": fetched.fingerprint,
                },
            )
        return BaseImage(disk, image.format, whole.virtual_size, digest)

    def use(self, disk: Path, now: float) -> None:
        """Put down that the image is wanted, once in a while; `now` are seconds of any clock that goes on."""
        if disk not in self._used or now - self._used[disk] > _SEEN_EVERY:
            self._used[disk] = now
            with suppress(OSError):
                os.utime(_beside(disk))

    def stored(self) -> list[StoredImage]:
        """Every disk that lies there, also such as do not count: they take room all the same."""
        found = []
        for name in os.listdir(self.directory):
            if match := _disk_name(name):
                algorithm, hex_digits, form = match.groups()
                disk = self.directory / name
                with suppress(FileNotFoundError):
                    found.append(
                        _stored(disk, cast(DiskFormat, form), Digest(f"{algorithm}:{hex_digits}"))
                    )
        return found

    def remove(self, disk: Path) -> None:
        """Take a disk away. It ceases to count before it is gone. Raises OSError."""
        self._known.pop(disk, None)
        self._used.pop(disk, None)
        _beside(disk).unlink(missing_ok=True)
        durable.sync_directory(self.directory)
        disk.unlink(missing_ok=True)

    def _disk(self, image: ImageSpec, digest: Digest) -> Path:
        packed = "" if image.decompress == "none" else f".{image.decompress}"
        return self.directory / f"{digest.replace(':', '-')}{packed}.{image.format}"

    def _source_file(self, source: str) -> Path:
        return self._sources / f"{hashlib.sha256(source.encode()).hexdigest()}.json"


def _beside(disk: Path) -> Path:
    return disk.with_name(disk.name + ".json")


def as_put(disk: Path, found: os.stat_result) -> bool:
    """Whether a file is as it was when it was put there as `disk`, by its size and the time of its last modification in
    ns, which a restored backup may have cut to seconds. True where that was not put down, as by an earlier version."""
    told = _unchanged(_beside(disk))
    size, modified = told.get("size", found.st_size), told.get("modified", found.st_mtime_ns)
    if not _is_count(modified):
        return False
    return found.st_size == size and found.st_mtime_ns in (modified, modified // 10**9 * 10**9)


def _put_at(disk: Path) -> int | None:
    """The time that a disk was given when it was put there first; None where there never was one."""
    recorded = _object(_beside(disk)).get("modified")
    if _is_count(recorded):
        return recorded
    with suppress(OSError):
        return disk.stat().st_mtime_ns
    return None


def _read(disk: Path, form: DiskFormat, digest: Digest) -> BaseImage | None:
    told = _object(_beside(disk))
    size, virtual_size = told.get("size"), told.get("virtual_size")
    if not _is_count(size) or not _is_count(virtual_size):
        return None
    if not 0 < virtual_size <= MAX_VIRTUAL_SIZE:
        return None
    return BaseImage(disk, form, virtual_size, digest)


def _stored(disk: Path, form: DiskFormat, digest: Digest) -> StoredImage:
    status = disk.stat()
    known = _read(disk, form, digest)
    base = known or BaseImage(disk, form, status.st_size, digest)
    source = _object(_beside(disk)).get("source")
    try:
        used_at = _beside(disk).stat().st_mtime
    except FileNotFoundError:
        used_at = status.st_mtime
    return StoredImage(
        base=base,
        source=source if isinstance(source, str) else "",
        size=status.st_blocks * 512,
        fetched_at=status.st_mtime,
        used_at=used_at,
    )


def _write(path: Path, told: dict[str, Any]) -> None:
    durable.write(path, json.dumps(told).encode(), replace=True)


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _unchanged(path: Path) -> dict[str, Any]:
    """As `_object`, and read once for as long as it is the same file: every machine asks for that of its image."""
    try:
        found = os.lstat(path)
    except OSError:
        return {}
    return _read_once(path, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=256)
def _read_once(path: Path, _version: tuple[int, int, int]) -> dict[str, Any]:
    return _object(path)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
