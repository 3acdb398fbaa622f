"""The root disk of one instance: a qcow2 overlay on a base image, written as a header and grown in place.

It refuses to make a disk anew where one lies, to shrink one, and to open a base image.

The layout is the one of docs/interop/qcow2.txt in QEMU's source, version 3, with clusters of 64 KiB:

    cluster 0      header, its extensions, the base's path
    cluster 1      refcount table: one entry
    cluster 2      refcount block: 16-bit counts of the clusters in use
    cluster 3...   L1 table, all zero: every read goes to the base
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from agent import durable
from agent.errors import BadInput, StateUnusable
from state.spec.resolved import DiskFormat

MAGIC = 0x514649FB
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
L2_SPAN = CLUSTER // 8 * CLUSTER
"""Bytes of the guest's disk that one L1 entry covers: 512 MiB."""
HEADER_LENGTH = 104
BACKING_FORMAT = 0xE2792ACA
BACKING_PATH_LIMIT = 1023
"""Bytes of a backing file's name (docs/interop/qcow2.txt)."""
SIZE_LIMIT = 64 << 40
"""Bytes of the largest disk that is made; what one refcount block counts suffices for its L1 table."""

_HEADER = ">IIQIIQIIQQIIQQQQII"
_SIZE_OFFSET = 24
_L1_SIZE_OFFSET = 36


def create(path: Path, base: Path, base_format: DiskFormat, size: int) -> bool:
    """Make an empty overlay of `size` bytes on `base` (absolute) at `path`, mode 0600, whole and on disk or not at all.

    Returns False, and touches nothing, where something lies at `path` already. The L1 table has room for at least
    4 TiB, so that `grow` rewrites one number.
    """
    if path.is_symlink() or path.exists():
        return False
    return durable.write(path, _image(base, base_format, size), replace=False)


def _image(base: Path, base_format: DiskFormat, size: int) -> bytes:
    name, kind = os.fsencode(base), base_format.encode()
    if not base.is_absolute() or len(name) > BACKING_PATH_LIMIT:
        raise BadInput(
            f"the image's path cannot be named in an overlay: {base}",
            hint=f"it must be absolute and at most {BACKING_PATH_LIMIT} bytes long",
        )
    if not 0 < size <= SIZE_LIMIT or size % 512:
        raise BadInput(
            f"a disk cannot be {size} bytes", hint="whole sectors of 512 bytes, at most 64 TiB"
        )
    l1_clusters = -(-_l1_entries(size) * 8 // CLUSTER)
    extensions = (
        struct.pack(">II", BACKING_FORMAT, len(kind))
        + kind.ljust(-(-len(kind) // 8) * 8, b"\0")
        + bytes(8)
    )
    header = struct.pack(
        _HEADER,
        MAGIC,
        3,
        HEADER_LENGTH + len(extensions),
        len(name),
        CLUSTER_BITS,
        size,
        0,  # no encryption
        l1_clusters * CLUSTER // 8,
        3 * CLUSTER,
        CLUSTER,
        1,  # cluster of refcount table
        0,  # no snapshots
        0,
        0,  # no incompatible, compatible or auto-clear features
        0,
        0,
        4,  # refcounts of 2**4 bits
        HEADER_LENGTH,
    )
    used = 3 + l1_clusters
    return b"".join(
        (
            (header + extensions + name).ljust(CLUSTER, b"\0"),
            struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0"),
            (b"\0\1" * used).ljust(CLUSTER, b"\0"),
            bytes(l1_clusters * CLUSTER),
        )
    )


def _l1_entries(size: int) -> int:
    return -(-size // L2_SPAN)


def grow(path: Path, size: int) -> bool:
    """Make the overlay at `path` at least `size` bytes; whether that changed anything. Nobody else may have it open.

    Raises StateUnusable for a file that is no qcow2 of version 3, BadInput where the L1 table has no room.
    """
    if size > SIZE_LIMIT or size % 512:
        raise BadInput(
            f"a disk cannot be {size} bytes", hint="whole sectors of 512 bytes, at most 64 TiB"
        )
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, HEADER_LENGTH, 0)
        if len(head) < HEADER_LENGTH or struct.unpack_from(">II", head) != (MAGIC, 3):
            raise StateUnusable(
                f"{path} is no qcow2 disk any more", hint="its machine must be replaced"
            )
        (now,) = struct.unpack_from(">Q", head, _SIZE_OFFSET)
        (room,) = struct.unpack_from(">I", head, _L1_SIZE_OFFSET)
        if now >= size:
            return False
        if _l1_entries(size) > room:
            raise BadInput(
                f"{path} has no room for {size} bytes", hint="grow it while its machine runs"
            )
        os.pwrite(descriptor, struct.pack(">Q", size), _SIZE_OFFSET)
        os.fsync(descriptor)
        return True
    finally:
        os.close(descriptor)
