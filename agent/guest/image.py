"""The image store: each base image once, under the digest of what was downloaded, read-only, whole or not there.

    images/<algorithm>-<hex>[.<decompress>].<format>        the disk, 0444
    images/<algorithm>-<hex>[.<decompress>].<format>.json   what is known of it; written last, it makes the image count
    images/sources/<sha256 of the source>.json              the digest that an unpinned source was seen to hold
    images/.*.part                                          on its way

An image that overlays stand on is never written again: other content has another digest, so another name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import durable
from agent.errors import ImageUnavailable
from agent.guest import download, qcow2
from agent.guest.unpack import Broken, SparseFile, Unpacker
from state.ids import Digest
from state.observed import BaseImage
from state.spec.resolved import ImageSpec

MAX_SIZE = 256 << 30
"""Bytes that one image may have when it is unpacked."""
FLOOR = 512 << 20
"""Bytes that a fetch leaves free on the disk of the store."""
_SECTOR = 512


@dataclass
class _Landing:
    """A fetch in progress."""

    part: Path
    digest: Any
    unpacker: Unpacker


class ImageStore:
    """The images below one directory. One agent at a time uses it; its own fetches may run beside each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sources = directory / "sources"
        self._known: dict[Path, BaseImage] = {}

    def find(self, image: ImageSpec) -> BaseImage | None:
        """See `agent.hypervisor.api.Images`. A file source that is not pinned counts as changed when its size, inode or
        time of modification did."""
        digest = image.digest or self._seen_at(image)
        if digest is None:
            return None
        disk = self._disk(digest, image)
        known = self._known.get(disk)
        if known is not None and disk.exists():
            return known
        try:
            told = json.loads(disk.with_name(disk.name + ".json").read_text())
            if disk.stat().st_size != told["size"]:
                return None
        except (OSError, ValueError, KeyError):
            return None
        found = BaseImage(disk, image.format, told["virtual_size"], digest)
        self._known[disk] = found
        return found

    async def fetch(self, image: ImageSpec, progress: Callable[[str], None]) -> BaseImage:
        """See `agent.hypervisor.api.Images`: one pass over the bytes, through digest and decompression to disk."""
        tried = f"fetching image {image.label} from {image.source}"
        durable.directory(self._sources)
        name = hashlib.sha256(f"{image.source} {image.decompress} {image.format}".encode())
        part = self._directory / f".{name.hexdigest()[:24]}{durable.UNFINISHED}"
        fingerprint = _fingerprint(image.source)
        descriptor = os.open(
            part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            try:
                digest = await self._land(image, descriptor, progress)
                virtual_size = await asyncio.to_thread(_virtual_size, image, descriptor)
            except (Broken, qcow2.NotUsable) as error:
                raise ImageUnavailable(f"{tried}: {error}") from error
            if image.digest is not None and digest != image.digest:
                raise ImageUnavailable(
                    f"{tried}: its digest is {digest}, not {image.digest}",
                    hint="correct the image map, or find out who changed the file",
                )
            return self._install(image, part, descriptor, digest, virtual_size, fingerprint)
        except OSError as error:
            raise ImageUnavailable(f"{tried}: {error.strerror or error}") from error
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                part.unlink()

    async def _land(
        self, image: ImageSpec, descriptor: int, progress: Callable[[str], None]
    ) -> Digest:
        algorithm = image.digest.partition(":")[0] if image.digest else "sha256"
        digest = hashlib.new(algorithm)
        unpacker = Unpacker(image.decompress, SparseFile(descriptor), MAX_SIZE)
        got = 0

        def take(piece: bytes) -> None:
            digest.update(piece)
            unpacker.feed(piece)

        async for piece, total in download.chunks(image.source):
            self._check_space()
            await asyncio.to_thread(take, piece)
            got += len(piece)
            progress(f"{100 * got // total}%" if total else f"{got >> 20} MiB")
        await asyncio.to_thread(unpacker.finish)
        return Digest(f"{algorithm}:{digest.hexdigest()}")

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._directory).free
        if free < FLOOR:
            raise ImageUnavailable(
                f"{self._directory} has {free >> 20} MiB left, and a fetch leaves {FLOOR >> 20} MiB",
                hint="free some space there",
            )

    def _install(  # noqa: PLR0913 - one place, all of what a fetch has found
        self,
        image: ImageSpec,
        part: Path,
        descriptor: int,
        digest: Digest,
        virtual_size: int,
        fingerprint: list[int] | None,
    ) -> BaseImage:
        disk = self._disk(digest, image)
        size = os.fstat(descriptor).st_size
        if not disk.exists():
            os.fchmod(descriptor, 0o444)
            part.rename(disk)
            durable.sync_directory(self._directory)
        told = {"size": size, "virtual_size": virtual_size, "source": image.source}
        durable.write(disk.with_name(disk.name + ".json"), json.dumps(told).encode(), replace=True)
        if image.digest is None:
            seen = {"source": image.source, "digest": digest, "fingerprint": fingerprint}
            durable.write(self._source_file(image), json.dumps(seen).encode(), replace=True)
        return BaseImage(disk, image.format, virtual_size, digest)

    def _disk(self, digest: Digest, image: ImageSpec) -> Path:
        packed = "" if image.decompress == "none" else f".{image.decompress}"
        return self._directory / f"{digest.replace(':', '-')}{packed}.{image.format}"

    def _source_file(self, image: ImageSpec) -> Path:
        return self._sources / f"{hashlib.sha256(image.source.encode()).hexdigest()}.json"

    def _seen_at(self, image: ImageSpec) -> Digest | None:
        try:
            seen = json.loads(self._source_file(image).read_text())
        except (OSError, ValueError):
            return None
        now = _fingerprint(image.source)
        if now is not None and now != seen.get("fingerprint"):
            return None
        return Digest(seen["digest"])


def _fingerprint(source: str) -> list[int] | None:
    """What changes with the content of a file source, found without reading it; None for other sources, and for a file
    that is not there, which then is no reason to doubt what was fetched from it."""
    path = download.local_path(source)
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _virtual_size(image: ImageSpec, descriptor: int) -> int:
    if image.format == "qcow2":
        return qcow2.virtual_size(os.pread(descriptor, qcow2.HEADER_LENGTH, 0))
    size = os.fstat(descriptor).st_size
    if size == 0:
        raise qcow2.NotUsable("it is empty")
    return -(-size // _SECTOR) * _SECTOR
