"""The image store: looks which images are there, and fetches the others, each once however many ask for it.

It refuses to wait for a file system that does not answer. What lies where is `shelf`'s to know.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from errno import EDQUOT, ENOSPC
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
from agent.worker import Ahead, Worker, alone
from state.ids import Digest
from state.observed import DISK_FLOOR, BaseImage, HowFar, StoredImage, image_key
from state.spec.resolved import ImageSpec

_KEEPER = "keeper of the images"
PIECES_AHEAD = 8
"""Pieces of a download, CHUNK each at most, that may have come before they are unpacked."""
AT_ONCE = 8
"""Images that are fetched beside each other; unpacking one may take 128 MiB of memory and more."""


class ImageStore:
    """The images below one directory. One agent at a time uses it, in one event loop; its own fetches may run beside
    each other. `floor`: bytes that a fetch leaves free on its disk; `run_as`: the user who looks at what has come, None
    where we are no root."""

    def __init__(
        self, directory: Path, *, floor: int = DISK_FLOOR, run_as: int | None = None
    ) -> None:
        self._shelf = Shelf(directory)
        self._floor = floor
        self._run_as = run_as
        self._fingerprints = Fingerprints()
        self._flights = Flights()
        self._turns = asyncio.Semaphore(AT_ONCE)

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
        return await self._flights.join(image_key(image), partial(self._in_turn, image), progress)

    async def _in_turn(self, image: ImageSpec, progress: Progress) -> BaseImage:
        async with self._turns:
            return await self._bring(image, progress)

    async def _bring(self, image: ImageSpec, progress: Progress) -> BaseImage:
        """From the copy on this host, where there is one that is as it was pinned; from its source otherwise."""
        copy = image.as_copy()
        if copy is None or not await self._is_there(copy):
            return await self._pass(image, image, progress)
        try:
            return await self._pass(image, copy, progress)
        except ImageUnavailable as refused:
            try:
                return await self._pass(image, image, progress)
            except ImageUnavailable as error:
                error.message += f"; before that, {refused.message}"
                raise

    async def _is_there(self, copy: ImageSpec) -> bool:
        path = local_path(copy.source)
        return path is not None and (await self._fingerprints.of([path]))[path] is not None

    async def _pass(self, image: ImageSpec, origin: ImageSpec, progress: Progress) -> BaseImage:
        """One pass over the bytes of `origin`, through digest and decompression to the disk of `image`."""
        tried = f"fetching image {image.label} from {origin.source}"
        landing = Landing(self._shelf.directory, self._floor, origin, self._run_as)
        # Beside each other: the digest takes a third of the time that unpacking does.
        hasher, writer = Worker("digest of an image"), Worker("writer of an image")
        ahead = Ahead(2 * PIECES_AHEAD)
        try:
            await writer.submit(landing.open)
            algorithm = image.digest.partition(":")[0] if image.digest else "sha256"
            hashed, got = hashlib.new(algorithm), 0
            async with download.opened(origin.source) as source:
                _trust(image, source.doubt(), tried)
                await writer.submit(partial(landing.expect, source.total))
                while piece := await source.read():
                    got += len(piece)
                    progress(HowFar(got, source.total))
                    await ahead.add(
                        hasher.submit(partial(hashed.update, piece)),
                        writer.submit(partial(landing.take, piece)),
                    )
                await ahead.all()
                _trust(
                    image, source.doubt(), tried
                )  # what was gone on with may have come another way
            whole = await writer.submit(landing.finish)
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
            said, full = error.strerror or str(error), error.errno in (ENOSPC, EDQUOT)
            raise (NoRoomForImage if full else ImageUnavailable)(f"{tried}: {said}") from error
        finally:
            ahead.leave()
            landing.abandon()
            hasher.leave()
            writer.leave(landing.close)


def _trust(image: ImageSpec, doubt: str, tried: str) -> None:
    """Raises ImageUnavailable where these may be other bytes than are meant, and no digest tells."""
    if image.digest is None and doubt:
        raise ImageUnavailable(f"{tried}: {doubt}", hint="write its sha256 into the image map")
