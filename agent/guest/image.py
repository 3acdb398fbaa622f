"""The image store: looks which images are there, and fetches the others, each once however many ask for it.

It refuses to wait for a file system that does not answer. What lies where is `shelf`'s to know.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from agent.errors import Blocked, ImageUnavailable, NoRoomForImage
from agent.guest import download
from agent.guest.fingerprints import Fingerprints
from agent.guest.flights import Flights, Progress
from agent.guest.landing import Landing, NoRoom
from agent.guest.local import local_path
from agent.guest.qcow2 import NotUsable
from agent.guest.shelf import Fetched, Shelf
from agent.guest.unpack import Broken
from agent.worker import Worker, alone
from state.ids import Digest
from state.observed import BaseImage, StoredImage, image_key
from state.spec.resolved import ImageSpec

_KEEPER = "keeper of the images"
FLOOR = 512 << 20
"""Bytes that a fetch leaves free on the disk of the store."""


class ImageStore:
    """The images below one directory. One agent at a time uses it, in one event loop; its own fetches may run beside
    each other. `floor`: bytes that a fetch leaves free on its disk."""

    def __init__(self, directory: Path, *, floor: int = FLOOR) -> None:
        self._shelf = Shelf(directory)
        self._floor = floor
        self._fingerprints = Fingerprints()
        self._flights = Flights()

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        """See `agent.hypervisor.api.Images`. A file source that is not pinned counts as changed when its size, inode or
        time of modification did; one that is not there, or does not answer, is no reason to doubt what was fetched."""
        unpinned = {image.source for image in images if image.digest is None}
        fetched = {source: one for source in unpinned if (one := self._shelf.fetched(source))}
        paths = {source: path for source in fetched if (path := local_path(source)) is not None}
        now = await self._fingerprints.of(set(paths.values()))
        changed = {
            source
            for source, path in paths.items()
            if now[path] is not None and now[path] != fetched[source].fingerprint
        }
        stored: dict[ImageSpec, BaseImage] = {}
        seen_at = asyncio.get_running_loop().time()
        for image in images:
            digest = image.digest
            if digest is None and image.source in fetched and image.source not in changed:
                digest = fetched[image.source].digest
            if digest is not None and (base := self._shelf.find(image, digest)) is not None:
                stored[image] = base
                self._shelf.use(base.path, seen_at)
        return stored

    async def stored(self) -> Sequence[StoredImage]:
        """See `agent.hypervisor.api.Images`."""
        return await alone(_KEEPER, self._shelf.stored)

    async def remove(self, image: StoredImage) -> None:
        """See `agent.hypervisor.api.Images`."""
        try:
            await alone(_KEEPER, partial(self._shelf.remove, image.base.path))
        except OSError as error:
            raise Blocked(
                f"removing the image {image.base.path}: {error.strerror}",
                hint="see to the directory that it lies in",
            ) from error

    async def fetch(self, image: ImageSpec, progress: Progress) -> BaseImage:
        """See `agent.hypervisor.api.Images`."""
        return await self._flights.join(image_key(image), partial(self._bring, image), progress)

    async def _bring(self, image: ImageSpec, progress: Progress) -> BaseImage:
        """One pass over the bytes, through digest and decompression to disk."""
        tried = f"fetching image {image.label} from {image.source}"
        landing = Landing(self._shelf.directory, self._floor, image.decompress)
        # Beside each other: the digest takes a quarter of the time that unpacking does.
        hasher, writer = Worker("digest of an image"), Worker("writer of an image")
        try:
            await writer.submit(landing.open)
            algorithm = image.digest.partition(":")[0] if image.digest else "sha256"
            hashed, got = hashlib.new(algorithm), 0
            async with download.opened(image.source) as source:
                await writer.submit(partial(landing.expect, source.total))
                piece = await source.read()
                while piece:
                    got += len(piece)
                    piece, *_ = await asyncio.gather(
                        source.read(),
                        hasher.submit(partial(hashed.update, piece)),
                        writer.submit(partial(landing.take, piece)),
                    )
                    total = source.total
                    progress(f"{100 * got // total}%" if total else f"{got >> 20} MiB")
            whole = await writer.submit(partial(landing.finish, image.format))
            digest = Digest(f"{algorithm}:{hashed.hexdigest()}")
            if image.digest is not None and digest != image.digest:
                raise ImageUnavailable(
                    f"{tried}: its digest is {digest}, not {image.digest}",
                    hint="correct the image map, or find out who changed the file",
                )
            fetched = Fetched(digest, source.fingerprint) if image.digest is None else None
            return await writer.submit(partial(self._shelf.put, image, digest, whole, fetched))
        except (Broken, NotUsable) as error:
            raise ImageUnavailable(f"{tried}: {error}") from error
        except NoRoom as error:
            raise NoRoomForImage(
                f"{tried}: {error}", hint="free some space there", short=error.short
            ) from error
        except OSError as error:
            raise ImageUnavailable(f"{tried}: {error.strerror or error}") from error
        finally:
            landing.abandon()
            hasher.leave()
            writer.leave(landing.close)
