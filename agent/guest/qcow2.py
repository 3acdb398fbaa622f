"""What a qcow2 file says of itself, read without opening anything that it names.

The header is that of QEMU's docs/interop/qcow2.txt. A file that needs another file (a backing file, external data), or
that uses what this version does not know, is refused: an image comes from outside.
"""

from __future__ import annotations

import struct

HEADER_LENGTH = 104
MAX_VIRTUAL_SIZE = 64 << 40

_SECTOR = 512
"""Bytes. QEMU rounds other sizes down, and an overlay of the size that the header says would not fit its base."""

_MAGIC = b"QFI\xfb"
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _COMPRESSION | _EXTENDED_L2


class NotUsable(ValueError):
    """The file cannot serve as an image; the text is a sentence part that says why."""


def virtual_size(header: bytes) -> int:
    """The size in bytes of the disk that a guest sees. `header` is the first HEADER_LENGTH bytes of the file.

    Raises NotUsable.
    """
    if header[:4] != _MAGIC:
        raise NotUsable("it is no qcow2 file")
    if len(header) < 72:
        raise NotUsable("it ends inside its header")
    version, backing = struct.unpack(">IQ", header[4:16])
    size, encrypted = struct.unpack(">QI", header[24:36])
    if version not in (2, 3):
        raise NotUsable(f"it is qcow2 of version {version}, which is not supported")
    if backing:
        raise NotUsable("it names a backing file")
    if encrypted:
        raise NotUsable("it is encrypted")
    if version == 3:
        _check_features(header)
    if not 0 < size <= MAX_VIRTUAL_SIZE:
        raise NotUsable(f"its virtual size is {size} bytes")
    if size % _SECTOR:
        raise NotUsable(f"its virtual size is {size} bytes, which are no whole sectors")
    return int(size)


def _check_features(header: bytes) -> None:
    if len(header) < HEADER_LENGTH:
        raise NotUsable("it ends inside its header")
    (features,) = struct.unpack(">Q", header[72:80])
    if features & _DATA_FILE:
        raise NotUsable("it keeps its data in another file")
    if features & _CORRUPT:
        raise NotUsable("it is marked as corrupt")
    if features & ~_KNOWN:
        raise NotUsable("it uses features that are not known here")
