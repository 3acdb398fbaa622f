"""Decompression: every kind whole, damage said, memory and disk spent only on what is there."""

from __future__ import annotations

import gzip
import lzma
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.guest.sparse import SparseFile
from agent.guest.unpack import PIECE, Broken, Unpacker
from state.spec.resolved import Decompress

PACKED: tuple[Decompress, ...] = ("zstd", "gzip", "xz")
MIB = 1 << 20


def packed(kind: Decompress, data: bytes) -> bytes:
    match kind:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data, 1)
        case "xz":
            return lzma.compress(data, preset=0)
        case "zstd":
            return zstandard.compress(data)


class Sink(SparseFile):
    """A file that nobody keeps, which remembers how long the longest piece was."""

    def __init__(self) -> None:
        super().__init__(-1, lambda _: None)
        self.longest = 0
        self.content: list[bytes] | None = None

    def write(self, data: bytes | memoryview) -> None:
        self.longest = max(self.longest, len(data))
        self.size += len(data)
        if self.content is not None:
            self.content.append(bytes(data))

    def finish(self) -> None:
        """There is no file."""


def unpacked(kind: Decompress, data: bytes, step: int = PIECE, limit: int = 1 << 40) -> bytes:
    sink = Sink()
    sink.content = []
    unpacker = Unpacker(kind, sink, limit)
    for at in range(0, len(data), step):
        unpacker.feed(data[at : at + step])
    unpacker.finish()
    return b"".join(sink.content)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


NOISE = os.urandom(3 * MIB // 2)
DISK = NOISE + bytes(5 * MIB) + NOISE[:12_345] + b"x" * (2 * MIB)


@pytest.mark.parametrize("kind", ["none", *PACKED])
@pytest.mark.parametrize("step", [7777, PIECE])
def test_what_was_packed_comes_out_again_however_it_is_cut(kind: Decompress, step: int) -> None:
    assert unpacked(kind, packed(kind, DISK), step) == DISK


@pytest.mark.parametrize("kind", PACKED)
@settings(max_examples=25)
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4), step=st.integers(1, 50))
def test_parts_after_each_other_are_one_stream(
    kind: Decompress, parts: list[bytes], step: int
) -> None:
    stream = b"".join(packed(kind, part) for part in parts)
    assert unpacked(kind, stream, step) == b"".join(parts)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_data_that_ends_early_is_broken(kind: Decompress, cut: int) -> None:
    with pytest.raises(Broken, match="ends before its end"):
        unpacked(kind, packed(kind, DISK)[:-cut])


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("part", [b"", b"a little", NOISE[:300]])
def test_a_second_part_that_ends_early_is_broken_wherever_it_does(
    kind: Decompress, part: bytes
) -> None:
    """The library takes a frame behind five bytes of another for the whole of that one."""
    first, second = packed(kind, b"first"), packed(kind, part)
    for end in range(1, len(second)):
        with pytest.raises(Broken):
            unpacked(kind, first + second[:end])


@pytest.mark.parametrize("kind", PACKED)
def test_data_that_goes_on_with_something_else_is_broken(kind: Decompress) -> None:
    with pytest.raises(Broken, match="is damaged"):
        unpacked(kind, packed(kind, DISK) + b"what is this, and why is it here?")


@pytest.mark.parametrize("kind", ["none", *PACKED])
def test_no_more_than_was_allowed_is_written(kind: Decompress) -> None:
    with pytest.raises(Broken, match=f"more than its max_size, {MIB} bytes"):
        unpacked(kind, packed(kind, bytes(MIB + 1)), limit=MIB)
    assert unpacked(kind, packed(kind, bytes(MIB)), limit=MIB) == bytes(MIB)


@pytest.mark.parametrize("kind", PACKED)
def test_a_bomb_costs_no_memory(kind: Decompress) -> None:
    """Sabotage: let a decoder give all it has. 64 MiB then come at once."""
    bomb = packed(kind, bytes(64 * MIB))
    sink = Sink()
    unpacker = Unpacker(kind, sink, 1 << 40)
    tracemalloc.start()
    try:
        unpacker.feed(bomb)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    unpacker.finish()
    assert sink.size == 64 * MIB
    assert sink.longest <= PIECE
    assert most < 4 * MIB + len(bomb)


SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (70_000).to_bytes(4, "little") + bytes(70_000)


@given(
    data=st.binary(max_size=400) | st.integers(0, 300_000).map(bytes),
    level=st.sampled_from([-5, 1, 19]),
    checksum=st.booleans(),
    sized=st.booleans(),
    step=st.integers(1, 70),
    skipped=st.booleans(),
)
@settings(max_examples=60)
def test_a_frame_of_any_shape_is_read_whole_in_pieces_of_any_size(
    data: bytes, level: int, checksum: bool, sized: bool, step: int, skipped: bool
) -> None:
    """Sabotage: forget one of the parts of a header, or the checksum."""
    packer = zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=sized
    )
    frame = packer.compress(data)
    assert unpacked("zstd", (SKIPPABLE if skipped else b"") + frame + frame, step) == data + data


def test_a_frame_that_was_streamed_has_other_headers_and_is_read_too() -> None:
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    parts = [packer.compress(NOISE), packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    frame = b"".join([*parts, packer.compress(bytes(MIB)), packer.flush()])
    for step in (1000, 1 << 17, PIECE):
        assert unpacked("zstd", frame, step) == NOISE + bytes(MIB)


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_padding_is_passed_over_as_the_programs_do(kind: Decompress) -> None:
    whole = packed(kind, b"one") + bytes(512) + packed(kind, b"two") + bytes(1024)
    for step in (1, 100, PIECE):
        assert unpacked(kind, whole, step) == b"onetwo"


def test_a_window_larger_than_the_program_allows_is_refused() -> None:
    def with_window(log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=log)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return packer.compress(NOISE) + packer.flush()

    assert unpacked("zstd", with_window(27)) == NOISE
    with pytest.raises(Broken, match="too much memory"):
        unpacked("zstd", with_window(28))
