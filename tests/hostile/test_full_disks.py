"""A disk that is really full, and one that fills up meanwhile: nothing half-made stays, and what is there is untouched.

Only root can mount the small disks that these need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from agent.errors import ImageUnavailable, NoRoomForImage
from agent.guest.image import ImageStore
from state.observed import BaseImage, HowFar
from state.spec.resolved import ImageSpec
from tests.hostile.servers import Turn, misbehaving
from tests.mounting import mounted
from tests.waiting import eventually

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Eight MiB for the store."""
    path = tmp_path / "images"
    path.mkdir()
    with mounted(path, "8m,mode=0700"):
        yield path


def noise(mebibytes: int) -> bytes:
    return os.urandom(mebibytes * MIB)


def packed(beside: Path, content: bytes) -> ImageSpec:
    """An image of which nobody knows how large it is before it has come."""
    source = beside.with_name("disk.zst")
    source.write_bytes(zstandard.compress(content))
    return ImageSpec("large", source.as_uri(), decompress="zstd", format="raw")


async def there(store: ImageStore, small: Path) -> tuple[ImageSpec, BaseImage, bytes]:
    """An image that is in the store before anything goes wrong."""
    content = noise(1)
    source = small.with_name("first.raw")
    source.write_bytes(content)
    image = ImageSpec("first", source.as_uri(), format="raw")
    return image, await store.fetch(image, lambda _: None), content


async def untouched(
    store: ImageStore, small: Path, found: tuple[ImageSpec, BaseImage, bytes]
) -> None:
    image, base, content = found
    await eventually(lambda: not any(small.glob(".*")), "nothing is left over")
    assert await store.look([image]) == {image: base}
    assert read(base.path) == content


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.parametrize(
    ("floor", "why"), [(0, "No space left on device|MiB left"), (MIB, "MiB left for")]
)
async def test_a_disk_that_an_image_fills_is_free_again(small: Path, floor: int, why: str) -> None:
    """Sabotage: leave behind what has come."""
    store = ImageStore(small, floor=floor)
    found = await there(store, small)
    for _ in range(3):
        with pytest.raises(NoRoomForImage, match=why):
            await store.fetch(packed(small, noise(16)), lambda _: None)
        await untouched(store, small, found)
    base = await store.fetch(packed(small, noise(4)), lambda _: None)
    assert base.virtual_size == 4 * MIB


async def test_what_says_how_large_it_is_is_not_begun(small: Path) -> None:
    store = ImageStore(small, floor=MIB)
    async with misbehaving(noise(16)) as server:
        image = ImageSpec("large", server.url, format="raw")
        with pytest.raises(NoRoomForImage, match="MiB left for 16 MiB more") as refused:
            await store.fetch(image, lambda _: None)
        assert refused.value.short > 8 * MIB


async def test_a_disk_that_somebody_else_fills_meanwhile(small: Path) -> None:
    """Sabotage: believe what was free at the beginning."""
    store = ImageStore(small, floor=0)
    found = await there(store, small)

    def fill(far: HowFar) -> None:
        with suppress(OSError), (small / "somebody-else's").open("ab") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()

    with pytest.raises(ImageUnavailable, match=r"No space left on device|MiB left"):
        await store.fetch(packed(small, noise(6)), fill)
    await untouched(store, small, found)
    (small / "somebody-else's").unlink()
    await store.fetch(packed(small, noise(4)), lambda _: None)


async def test_a_cut_on_a_full_disk_is_no_end_of_the_agent(small: Path) -> None:
    store = ImageStore(small, floor=0)
    content = noise(6)
    async with misbehaving(content, Turn(cut=3 * MIB), Turn(cut=MIB)) as server:
        (small / "filler").write_bytes(noise(4))
        image = ImageSpec("large", server.url, format="raw")
        with pytest.raises(NoRoomForImage):
            await store.fetch(image, lambda _: None)
        (small / "filler").unlink()
        base = await store.fetch(image, lambda _: None)
        assert read(base.path) == content
