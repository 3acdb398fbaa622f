"""A copy of an image on this host is taken in place of its source: where it can be read, and is as it was pinned."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from agent.errors import ImageUnavailable
from agent.guest.image import ImageStore
from state.ids import Digest
from state.observed import BaseImage
from state.spec.resolved import ImageSpec
from tests.serving import Server, serving

CONTENT, OTHER = os.urandom(1 << 20), os.urandom(1 << 20)
PACKED = zstandard.compress(CONTENT)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Where the image comes from if not from its copy, packed."""
    async with serving(PACKED) as made:
        made.go_on.set()
        yield made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy.img"
    path.write_bytes(CONTENT)
    return path


def spoil(copy: Path, content: bytes = OTHER) -> None:
    copy.write_bytes(content)


def digest_of(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def image(
    server: Server, copy: Path, *, pin: bytes | None = None, plain: bool = False
) -> ImageSpec:
    return ImageSpec(
        "a",
        server.url,
        digest=None if pin is None else digest_of(pin),
        decompress="none" if plain else "zstd",
        format="raw",
        copy=copy.as_uri(),
    )


async def brought(tmp_path: Path, spec: ImageSpec) -> BaseImage:
    """The image once it was fetched, as this agent and the next one find it."""
    directory = tmp_path / "images"
    directory.mkdir()
    store = ImageStore(directory)
    base = await store.fetch(spec, lambda _: None)
    for one in (store, ImageStore(directory)):
        assert await one.look([spec]) == {spec: base}
    assert base.path.read_bytes() == CONTENT
    return base


async def test_a_copy_is_taken_as_it_lies_though_its_source_is_packed(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    """Sabotage: unpack it."""
    base = await brought(tmp_path, image(server, copy))
    assert server.asked == 0
    spoil(copy)
    spec = image(server, copy)
    assert await ImageStore(tmp_path / "images").look([spec]) == {spec: base}, "it was taken once"


async def test_a_copy_that_is_as_it_was_pinned_is_taken(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    await brought(tmp_path, image(server, copy, pin=CONTENT, plain=True))
    assert server.asked == 0


async def test_another_copy_than_was_pinned_is_left_for_the_source(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    """Sabotage: believe it."""
    spoil(copy)
    server.content = CONTENT
    await brought(tmp_path, image(server, copy, pin=CONTENT, plain=True))
    assert server.asked == 1


async def test_where_neither_can_be_had_both_are_told(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    spoil(copy)
    server.says = "404 Not Found"
    with pytest.raises(ImageUnavailable) as error:
        await brought(tmp_path, image(server, copy, pin=CONTENT, plain=True))
    told = str(error.value)
    assert told.startswith(f"fetching {server.url}: ")
    assert f"; before that, fetching image a from {copy.as_uri()}: its digest is sha256:" in told


async def test_of_an_image_that_is_pinned_packed_no_copy_is_believed(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    """Sabotage: take it by the digest of what is packed, as it lies."""
    spoil(copy, PACKED)
    await brought(tmp_path, image(server, copy, pin=PACKED))
    assert server.asked == 1


async def test_a_source_that_is_a_file_needs_no_copy(
    tmp_path: Path, server: Server, copy: Path
) -> None:
    """Sabotage: take the copy, and find each time that the source is another file."""
    source = tmp_path / "source.img"
    spoil(source, CONTENT)
    spoil(copy)
    await brought(tmp_path, replace(image(server, copy, plain=True), source=source.as_uri()))


def link(copy: Path) -> None:
    copy.rename(elsewhere := copy.with_name("elsewhere"))
    spoil(elsewhere)
    copy.symlink_to(elsewhere)


def fifo(copy: Path) -> None:
    copy.unlink()
    os.mkfifo(copy)


def directory(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


@pytest.mark.parametrize("change", [Path.unlink, link, fifo, directory])
async def test_what_is_no_file_is_no_copy(
    tmp_path: Path, server: Server, copy: Path, change: Callable[[Path], None]
) -> None:
    change(copy)
    await brought(tmp_path, image(server, copy))
    assert server.asked == 1
