"""qcow2 files that attackers and accidents make: each a sound one of `qemu-img`, with what matters written over.

Offsets are those of docs/interop/qcow2.txt in QEMU's source.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

SIZE = 64 << 20
MAKE = ("qemu-img", "create", "-q", "-f", "qcow2")
Make = Callable[[Path, Path], None]
"""Makes such a file at the first path; the second is a file of the host that it may want to read."""


def sound(path: Path) -> None:
    """One that nothing is wrong with."""
    subprocess.run([*MAKE, path, str(SIZE)], check=True)


def patched(offset: int, form: str, *values: int) -> Make:
    """A sound one with numbers written over what stands at `offset`."""

    def make(path: Path, _: Path) -> None:
        sound(path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(struct.pack(form, *values))

    return make


def with_options(*options: str) -> Make:
    """One of `qemu-img create`, whose options may speak of the SECRET."""

    def make(path: Path, secret: Path) -> None:
        words = [option.replace("SECRET", str(secret)) for option in options]
        subprocess.run([*MAKE, *words, path, str(SIZE)], check=True)

    return make


def filled(content: bytes) -> Make:
    """Something else altogether."""

    def make(path: Path, _: Path) -> None:
        path.write_bytes(content)

    return make


def cut(length: int) -> Make:
    """The first bytes of a sound one."""

    def make(path: Path, _: Path) -> None:
        sound(path)
        path.write_bytes(path.read_bytes()[:length])

    return make


def with_a_long_extension(path: Path, _: Path) -> None:
    """The first extension of its header claims to go on behind all that there is."""
    patched(104, ">II", 0xE2792ACA, 0xFFFFFFFF)(path, path)


def written(cut: int | None = None, options: Sequence[str] = (), *after: tuple[int, bytes]) -> Make:
    """One with a MiB in it that is not zero, of which then only so many bytes are left."""

    def make(path: Path, _: Path) -> None:
        subprocess.run([*MAKE, *options, path, str(SIZE)], check=True)
        words = ("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        content = bytearray(path.read_bytes()[:cut])
        for offset, value in after:
            content[offset : offset + len(value)] = value
        path.write_bytes(content)

    return make


BY_HEADER: dict[str, tuple[Make, str]] = {
    "a backing file": (with_options("-u", "-b", "SECRET", "-F", "raw"), "names a backing file"),
    "a backing file that blocks": (
        with_options("-u", "-b", "/dev/zero", "-F", "raw"), "names a backing file",
    ),
    "a backing file by a protocol": (
        with_options("-u", "-b", 'json:{"driver":"raw","file":{"driver":"file","filename":"SECRET"}}', "-F", "raw"),
        "names a backing file",
    ),
    "an offset of a name": (patched(8, ">QI", 1 << 62, 0), "names a backing file"),
    "external data": (
        with_options("-o", "data_file=SECRET.data,data_file_raw=on"), "its data in another file",
    ),
    "external data by a bit": (patched(72, ">Q", 4), "its data in another file"),
    "an unknown feature": (patched(72, ">Q", 1 << 40), "features that are not known"),
    "a mark of corruption": (patched(72, ">Q", 2), "marked as corrupt"),
    "no size": (patched(24, ">Q", 0), "its virtual size is 0"),
    "an absurd size": (patched(24, ">Q", 1 << 63), "its virtual size is 9223372036854775808 bytes"),
    "a size in the midst of a sector": (patched(24, ">Q", SIZE + 42), "no whole sectors"),
    "more than is allowed": (patched(24, ">Q", 60 << 40), "and its max_size is 1073741824"),
    "encryption": (patched(32, ">I", 1), "is encrypted"),
    "version 1": (patched(4, ">I", 1), "of version 1"),
    "version 99": (patched(4, ">I", 99), "of version 99"),
    "its beginning alone": (cut(90), "ends inside its header"),
    "less than that": (cut(50), "ends inside its header"),
    "nothing": (filled(b""), "no qcow2"),
    "a raw disk": (filled(bytes(512) * 64), "no qcow2"),
    "a vmdk": (filled(b"KDMV" + bytes(4096)), "no qcow2"),
    "a page of a server": (filled(b"<!doctype html><title>Sign in</title>" * 9), "no qcow2"),
}  # fmt: skip
"""What the header alone gives away, and the words that say so."""

BY_QEMU: dict[str, Make] = {
    "clusters of a strange size": patched(20, ">I", 63),
    "an L1 table without an end": patched(36, ">I", 0x7FFFFFFF),
    "an L1 table that is too short": patched(36, ">I", 0),
    "an L1 table nowhere": patched(40, ">Q", 0x1234567),
    "a refcount table nowhere": patched(48, ">Q", 0x1234567),
    "a refcount table without an end": patched(56, ">I", 0x7FFFFFFF),
    "snapshots without an end": patched(60, ">IQ", 0x7FFFFFFF, 1 << 40),
    "refcounts of a strange width": patched(96, ">I", 200),
    "a header longer than the file": patched(100, ">I", 0x7FFFFFF0),
    "an extension longer than the file": with_a_long_extension,
}
"""What only a reader of the whole of it finds."""

SHORT: dict[str, Make] = {
    "without its last clusters": written(-200_000),
    "without nearly everything": written(300_000),
    "without its tables": written(200_000),
    "with a table that leads nowhere": written(None, (), (3 << 16, struct.pack(">Q", 1 << 40))),
}
"""What opens, and is not all there."""

USABLE: dict[str, Make] = {
    "version 2": written(None, ("-o", "compat=0.10")),
    "extended tables": written(None, ("-o", "extended_l2=on")),
    "compressed by zstd": written(None, ("-o", "compression_type=zstd")),
    "small clusters": written(None, ("-o", "cluster_size=512")),
    "not closed": written(
        None, ("-o", "lazy_refcounts=on"), (72, struct.pack(">Q", 1)), (2 << 16, bytes(64))
    ),
    "clusters that nothing leads to": written(None, (), (2 << 16, b"\0\1" * 30)),
}
"""What is unusual, and can be used."""
