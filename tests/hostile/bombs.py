"""Packed data that stands for far more than it is: one stream of each kind, many after each other, one in another."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from functools import cache

import zstandard

from state.spec.resolved import Decompress

MIB = 1 << 20
KINDS: tuple[Decompress, ...] = ("zstd", "gzip", "xz")


def packed(kind: Decompress, data: bytes) -> bytes:
    """As the programs of those names would pack it."""
    match kind:
        case "gzip":
            return gzip.compress(data, 1, mtime=0)
        case "xz":
            return lzma.compress(data, preset=0)
        case "zstd":
            return zstandard.compress(data, 3)
        case "none":
            return data


@cache
def stream(kind: Decompress, mebibytes: int) -> bytes:
    """One stream of zeros."""
    if kind == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        return b"".join(packer.compress(bytes(MIB)) for _ in range(mebibytes)) + packer.flush()
    if kind == "xz":
        xz = lzma.LZMACompressor(preset=0)
        return b"".join(xz.compress(bytes(MIB)) for _ in range(mebibytes)) + xz.flush()
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as zipped:
        for _ in range(mebibytes):
            zipped.write(bytes(MIB))
    return file.getvalue()


def frames(kind: Decompress, number: int, mebibytes: int) -> bytes:
    """Many streams after each other."""
    return stream(kind, mebibytes) * number


def nested(kind: Decompress, depth: int, mebibytes: int) -> bytes:
    """A stream in a stream in a stream."""
    made = stream(kind, mebibytes)
    for _ in range(depth - 1):
        made = packed(kind, made)
    return made


def empty_frames(kind: Decompress, size: int) -> bytes:
    """Streams that stand for nothing, `size` bytes of them."""
    one = packed(kind, b"")
    return one * (size // len(one))


def xz_that_wants_memory() -> bytes:
    """A small stream whose header asks for a dictionary of 3 GiB (xz-file-format.txt, sections 3.1 and 5.3.1)."""
    made = bytearray(lzma.compress(b"small", check=lzma.CHECK_NONE))
    header, size = 12, (made[12] + 1) * 4
    assert made[header + 2 : header + 4] == b"\x21\x01", "the LZMA2 filter and its one property"
    made[header + 4] = 39
    checksum = zlib.crc32(made[header : header + size - 4])
    made[header + size - 4 : header + size] = checksum.to_bytes(4, "little")
    return bytes(made)
