"""Bombs end at what their map allows: they cost no disk, little memory, and no more time than it takes to see them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import ImageUnavailable
from agent.guest.image import ImageStore
from state.observed import HowFar
from state.spec.resolved import Decompress, ImageSpec
from tests.hostile.bombs import (
    KINDS,
    MIB,
    empty_frames,
    frames,
    nested,
    packed,
    stream,
    xz_that_wants_memory,
)
from tests.waiting import eventually

ALLOWED = 16 * MIB
BOMBS: dict[str, Callable[[Decompress], bytes]] = {
    "one stream": lambda kind: stream(kind, 256),
    "many streams": lambda kind: frames(kind, 64, 1),
    "one more than allowed": lambda kind: stream(kind, 16) + packed(kind, b"x"),
}


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images")


def spec(root: Path, content: bytes, kind: Decompress) -> ImageSpec:
    source = root / "bomb"
    source.write_bytes(content)
    return ImageSpec("a", source.as_uri(), None, kind, "raw", max_size=ALLOWED)


def content(path: Path) -> bytes:
    return path.read_bytes()


def blocks(directory: Path) -> int:
    """Bytes of the disk that the files of a directory take."""
    return sum(one.stat().st_blocks * 512 for one in directory.iterdir() if one.is_file())


async def refused(store: ImageStore, image: ImageSpec, why: str, images: Path) -> None:
    """It is refused for that reason, and has never taken more than a few blocks of the disk."""
    most = 0

    def look(_: HowFar) -> None:
        nonlocal most
        most = max(most, blocks(images))

    with pytest.raises(ImageUnavailable, match=why):
        await store.fetch(image, look)
    assert most < MIB
    await eventually(lambda: not any(images.glob(".*")), "nothing is left over")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_ends_at_what_is_allowed(
    store: ImageStore, tmp_path: Path, kind: Decompress, bomb: str
) -> None:
    """Sabotage: count what comes, or each stream by itself."""
    image = spec(tmp_path, BOMBS[bomb](kind), kind)
    why = f"it unpacks to more than its max_size, {ALLOWED} bytes"
    await refused(store, image, why, tmp_path / "images")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_just_allowed_comes_in_as_a_hole(
    store: ImageStore, tmp_path: Path, kind: Decompress
) -> None:
    image = spec(tmp_path, frames(kind, 4, 4), kind)
    base = await store.fetch(image, lambda _: None)
    assert base.virtual_size == ALLOWED
    assert blocks(base.path.parent) < MIB


@pytest.mark.parametrize("kind", KINDS)
async def test_one_layer_is_unpacked_and_no_more(
    store: ImageStore, tmp_path: Path, kind: Decompress
) -> None:
    image = spec(tmp_path, nested(kind, 3, 256), kind)
    base = await store.fetch(image, lambda _: None)
    assert content(base.path) == nested(kind, 2, 256)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_stands_for_nothing_has_an_end_too(
    store: ImageStore, tmp_path: Path, kind: Decompress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: count what is unpacked alone. A server can then go on for ever."""
    monkeypatch.setattr("agent.guest.landing._OVERHEAD", 0)
    source = tmp_path / "empty"
    source.write_bytes(empty_frames(kind, MIB + 1000))
    image = ImageSpec("a", source.as_uri(), None, kind, "raw", max_size=MIB - 1000)
    await refused(store, image, "more has come than its max_size", tmp_path / "images")


async def test_a_window_that_is_too_large_for_memory_is_refused(
    store: ImageStore, tmp_path: Path
) -> None:
    image = spec(tmp_path, xz_that_wants_memory(), "xz")
    await refused(store, image, "Memory usage limit exceeded", tmp_path / "images")


WEIGHED = """
import asyncio, resource, sys
from pathlib import Path
from agent.errors import ImageUnavailable
from agent.guest.image import ImageStore
from state.spec.resolved import ImageSpec

async def main(kind):
    store = ImageStore(Path(sys.argv[1]))
    image = ImageSpec("a", Path(sys.argv[2]).as_uri(), None, kind, "raw", max_size=1 << 36)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    await store.fetch(image, lambda _: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

import lzma, zstandard
asyncio.run(main(sys.argv[3]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_memory_holds_a_piece_of_it_at_a_time(tmp_path: Path, kind: Decompress) -> None:
    """Sabotage: unpack what has come at once. A mebibyte of zstd stands for gigabytes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "bomb").write_bytes(stream(kind, 256))
    paths = str(tmp_path / "images"), str(tmp_path / "bomb")
    words = [sys.executable, "-c", WEIGHED, *paths, kind]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 40 << 10, "KiB"
