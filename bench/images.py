"""A sparse disk from a web server, unpacked into the store, beside curl and zstd with the same file.

The server is a process of its own, the same for both. Theirs does not look at a digest, and is told to have the disk on
disk at the end, as ours is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.guest.image import ImageStore
from bench.harness import Figure, alternate, peak
from state.ids import Digest
from state.observed import HowFar
from state.spec.resolved import ImageSpec
from state.spec.units import format_size

MIB = 1 << 20
SIZE = 2 << 30
RATIO = 1.15
MEMORY = 60.0
"""MB beyond what the process weighs before."""


def figures(rounds: int, size: int = SIZE) -> list[Figure]:
    """How long it takes, what memory it takes, and how much of the disk."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as directory:
        root = Path(directory)
        (root / "www").mkdir()
        digest = _packed(root, size)
        with _served(root / "www") as url:
            weights: list[float] = []
            blocks: dict[str, list[float]] = {"curl and zstd": [], "holdfast": []}

            def theirs() -> float:
                taken, room = _theirs(root, f"{url}/disk.zst")
                blocks["curl and zstd"].append(room)
                return taken

            def ours() -> float:
                taken, room, weight = _ours(root, f"{url}/disk.zst", digest)
                blocks["holdfast"].append(room)
                weights.append(weight)
                return taken

            samples = alternate(rounds, **{"curl and zstd": theirs, "holdfast": ours})
    middle = statistics.median(samples["curl and zstd"])
    same, disk = max(blocks["curl and zstd"]), format_size(size)
    return [
        Figure(f"{disk} from a server, unpacked", "ms", samples, RATIO * middle, f"{RATIO} of theirs"),
        Figure(
            f"memory beyond idle while {disk} is unpacked",
            "MB", {"holdfast": weights}, MEMORY, f"under {MEMORY:.0f} MB",
        ),
        Figure(f"room on disk of {disk}, unpacked", "MB", blocks, same, "no more than theirs"),
    ]  # fmt: skip


def _packed(root: Path, of: int) -> Digest:
    """So many bytes in which noise, hexadecimal digits of noise and holes take turns, packed by the program."""
    chance, disk, packed = random.Random(1), root / "disk.raw", root / "www" / "disk.zst"  # noqa: S311
    with disk.open("wb") as file:
        for at in range(0, of, 8 * MIB):
            file.seek(at)
            file.write(chance.randbytes(MIB) + chance.randbytes(MIB).hex().encode())
        file.truncate(of)
    subprocess.run(["zstd", "-q", "-3", disk, "-o", packed], check=True)
    disk.unlink()
    with packed.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{server.stdout.readline().split()[5]}"
        finally:
            server.terminate()


def _theirs(root: Path, url: str) -> tuple[float, float]:
    """Milliseconds, and MB of the disk."""
    out = root / "theirs.raw"
    line = f"curl -sSf {shlex.quote(url)} | zstd -d -q --sparse -o {shlex.quote(str(out))}"
    begun = time.perf_counter()
    subprocess.run(["bash", "-c", f"set -o pipefail; {line} && sync {out}"], check=True)
    taken = 1000 * (time.perf_counter() - begun)
    size = out.stat().st_blocks * 512 / 1e6
    out.unlink()
    return taken, size


def _ours(root: Path, url: str, digest: Digest) -> tuple[float, float, float]:
    """Milliseconds, MB of the disk, MB of memory beyond what there was before: in a process of its own."""
    store = root / "store"
    store.mkdir()
    words = [sys.executable, "-m", "bench.images", str(store), url, digest]
    taken, weight = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    [disk] = store.glob("*.raw")
    size = disk.stat().st_blocks * 512 / 1e6
    for path in store.rglob("*"):
        if path.is_file():
            path.unlink()
    (store / "sources").rmdir()
    store.rmdir()
    return taken, size, weight


async def _fetch(store: Path, image: ImageSpec) -> tuple[float, float]:
    def told(_: HowFar) -> None:
        """Whoever shows it does so at leisure."""

    before, begun = peak(), time.perf_counter()
    await ImageStore(store).fetch(image, told)
    return 1000 * (time.perf_counter() - begun), peak() - before


if __name__ == "__main__":
    import aiohttp  # noqa: F401 - what an agent has loaded by then
    import zstandard  # noqa: F401

    where, url, pinned = sys.argv[1:]
    image = ImageSpec("bench", url, Digest(pinned), "zstd", "raw")
    print(json.dumps(asyncio.run(_fetch(Path(where), image))))
