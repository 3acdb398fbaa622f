"""What building either guest has in common: what went in, partitions, and putting the finished image in its place.

Nothing here knows what a guest contains.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024
EPOCH = 1_700_000_000
"""Every time stamp that we set in an image."""

CLOCKS = ("SOURCE_DATE_EPOCH", "E2FSPROGS_FAKE_TIME")
"""What the programs that we run read the time from instead of the clock."""

FAT32_LBA, LINUX = 0x0C, 0x83
"""Types of a partition in an MBR."""


class BuildError(Exception):
    """The image cannot be built; the text says what is missing."""


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """The output of a program; one that fails raises `BuildError` with what it said."""
    search = (
        f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # which Debian leaves out for users
    )
    environment = {**os.environ, "PATH": search, "LC_ALL": "C", "TZ": "UTC"}
    environment |= dict.fromkeys(CLOCKS, str(EPOCH))
    done = subprocess.run(
        [str(argument) for argument in argv],
        cwd=cwd,
        capture_output=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BuildError(f"{argv[0]} failed with {done.returncode}: {said[-2000:]}")
    return done.stdout.decode(errors="replace")


def tree(root: Path) -> list[tuple[str, Path]]:
    """The regular files below a directory, each with its name in the guest, in a stable order."""
    return [
        (str(path.relative_to(root)), path) for path in sorted(root.rglob("*")) if path.is_file()
    ]


def inputs_digest(directory: Path, versions: Mapping[str, str]) -> str:
    """What the image of `directory` is made of: its files and ours, with their modes, and the package versions."""
    digest = hashlib.sha256()
    for name, path in [*tree(directory), ("image.py", Path(__file__))]:
        if "__pycache__" not in name:
            mode = "x" if os.access(path, os.X_OK) else "-"
            digest.update(f"{name}\0{mode}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for name, version in sorted(versions.items()):
        digest.update(f"{name}={version}\0".encode())
    return digest.hexdigest()


def partition(start: int, size: int, kind: int, *, bootable: bool = False) -> bytes:
    """One entry of an MBR's table; `start` and `size` in bytes."""
    chs = b"\xfe\xff\xff"  # look at the sector numbers instead
    sectors = (start // SECTOR).to_bytes(4, "little") + (size // SECTOR).to_bytes(4, "little")
    return (b"\x80" if bootable else b"\0") + chs + bytes([kind]) + chs + sectors


def master_boot_record(boot_code: bytes, *partitions: bytes) -> bytes:
    code = boot_code[:440].ljust(440, b"\0")
    return code + b"HOLD\0\0" + b"".join(partitions).ljust(64, b"\0") + b"\x55\xaa"


def publish(
    output: Path, digest: str, make: Callable[[Path], Path], *, compress: bool = False
) -> bool:
    """Have `make` write a raw disk into a directory that it is given, and put it at `output` as qcow2.

    Nothing is done, and False returned, when `output` is there and was made from what `digest` stands for.
    """
    stamp = output.with_name(f"{output.name}.inputs")
    if output.exists() and stamp.exists() and stamp.read_text() == f"{digest}\n":
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    work.chmod(0o755)  # apt drops to a user of its own, who has to get through
    try:
        image = work / "image.qcow2"
        how = ["-c"] if compress else []
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *how, make(work), image)
        stamp.unlink(missing_ok=True)
        image.replace(output)
        stamp.write_text(f"{digest}\n")
    finally:
        shutil.rmtree(work)
    return True


def main(arguments: Sequence[str], build: Callable[..., bool], *, more: str = "") -> int:
    """`build` is called with the output and, where it takes `more`, with the words behind it."""
    if not arguments or (len(arguments) > 1 and not more):
        sys.stderr.write(f"usage: build.sh OUTPUT.qcow2{more and f' [{more}…]'}\n")
        return 64
    output = Path(arguments[0]).absolute()
    try:
        built = build(output, *arguments[1:])
    except FileNotFoundError as error:
        sys.stderr.write(f"{output.name}: {error} (the build host needs what `packages` names)\n")
        return 1
    except (BuildError, OSError) as error:
        sys.stderr.write(f"{output.name}: {error}\n")
        return 1
    size = output.stat().st_size / 1e6
    sys.stderr.write(f"{output.name}: {'built' if built else 'is current'}, {size:.1f} MB\n")
    return 0
