"""Kills a process that fetches an image, at any moment: whatever counts then is whole, and the next one fetches it.

What is killed is the program, with a real server and a real store. An image that a kill came too late for is taken out
before the next.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import lzma
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import zstandard

from agent.guest.image import ImageStore
from state.ids import Digest
from state.spec.resolved import Decompress, DiskFormat, ImageSpec
from tests import zygote
from tests.hostile.servers import misbehaving
from tests.sweep.engine import ALL, DEADLINE, Share, Told, falls_to

KILLS = 200
_PLAIN = 3 << 20
_LATEST = 0.95
"""Of the time that a fetch takes, its process's beginning and end among it."""


@dataclass(frozen=True)
class Kind:
    """One image: how it is packed, what comes over the wire, and what is to be in the store."""

    label: str
    decompress: Decompress
    format: DiskFormat
    pinned: str | None
    packed: bytes
    plain: bytes

    def spec(self, url: str) -> ImageSpec:
        digest = None
        if self.pinned is not None:
            digest = Digest(f"{self.pinned}:{hashlib.new(self.pinned, self.packed).hexdigest()}")
        return ImageSpec(self.label, url, digest, self.decompress, self.format)


def sweep(
    sample: int | None,
    seed: int,
    share: Share = ALL,
    told: Callable[[str], None] = lambda _: None,
) -> Told:
    """KILLS of them, or `sample`, at moments that `seed` chooses."""
    began, found = time.monotonic(), Told()
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    try:
        points = [point for point in range(sample or KILLS) if falls_to(share, point)]
        asyncio.run(_Fetches(root, found).killed(points, seed, told))
    finally:
        shutil.rmtree(root)
    found.seconds = time.monotonic() - began
    return found


class _Fetches:
    """The fetches into one state directory."""

    def __init__(self, root: Path, found: Told) -> None:
        self._root = root
        self._images = root / "state" / "images"
        self._found = found
        self._specs: list[tuple[Kind, ImageSpec]] = []

    async def killed(self, points: list[int], seed: int, told: Callable[[str], None]) -> None:
        async with AsyncExitStack() as servers:
            for kind in await asyncio.to_thread(_kinds, self._root):
                server = await servers.enter_async_context(misbehaving(kind.packed))
                self._specs.append((kind, kind.spec(server.url)))
            self._write_map()
            takes = [await self._whole(kind, spec) for kind, spec in self._specs for _ in (1, 2)]
            for point in points:
                chance = random.Random(f"{seed} {point}")  # noqa: S311 - the same each time is the point
                at = chance.randrange(len(self._specs))
                await self._kill(*self._specs[at], chance.uniform(0, _LATEST * takes[2 * at + 1]))
                self._found.points += 1
                wrong = len(self._found.violations)
                told(f"{self._found.points} of {len(points)} kills, {wrong} violations")

    async def _kill(self, kind: Kind, spec: ImageSpec, after: float) -> None:
        process = self._begin(kind)
        await asyncio.sleep(after)
        process.kill()
        await asyncio.to_thread(process.wait, DEADLINE)
        where = f"{kind.label}, killed after {1000 * after:.0f} ms"
        self._found.lines[f"leaves {self._left()}"] += 1
        await self._check(kind, spec, where)
        await self._whole(kind, spec, where)

    async def _whole(self, kind: Kind, spec: ImageSpec, where: str = "at first") -> float:
        """Fetch it to the end, check it, and take it out; how long that took."""
        began = time.monotonic()
        status = await asyncio.to_thread(self._begin(kind).wait, DEADLINE)
        took = time.monotonic() - began
        if status != 0:
            self._wrong(where, f"the next fetch ended with {status}: {self._log()}")
        elif not await self._check(kind, spec, where):
            self._wrong(where, "the next fetch has not brought it")
        # What lies there from before is taken in as it is, and the remains of it are cleared away.
        left = [one.name for one in self._images.rglob(".*")]
        if left:
            self._wrong(where, f"the next fetch leaves {left}")
        for path in self._images.rglob("*"):
            if path.is_file():
                path.unlink()
        return took

    def _begin(self, kind: Kind) -> zygote.Forked:
        words = ["images", "fetch", kind.label, "--desired", str(self._root / "tree")]
        with (self._root / "log").open("wb") as log, open(os.devnull, "rb") as nothing:
            return zygote.start(
                [*words, "--state", str(self._root / "state")],
                env=os.environ, cwd=self._root, stdin=nothing, stdout=log, stderr=log,
            )  # fmt: skip

    async def _check(self, kind: Kind, spec: ImageSpec, where: str) -> bool:
        """That what counts is whole, as is whatever has its name; whether it counts."""
        if not self._images.is_dir():
            return False
        for disk in self._images.glob(f"sha*.{kind.format}"):
            if disk.read_bytes() != kind.plain or disk.stat().st_mode & 0o777 != 0o444:
                self._wrong(where, f"{disk.name} is half made")
        return spec in await ImageStore(self._images).look([spec])

    def _left(self) -> str:
        """What a kill leaves of a fetch."""
        names = [one.name for one in self._images.rglob("*") if one.is_file()]
        if any(name.endswith(".part") for name in names):
            return "a part"
        if not any(name.endswith((".raw", ".qcow2")) for name in names):
            return "nothing"
        return "all of it" if any(name.endswith(".json") for name in names) else "a disk alone"

    def _write_map(self) -> None:
        lines = ["api: holdfast/v1", "kind: images", "name: default", "images:"]
        for kind, spec in self._specs:
            entry = f'source: "{spec.source}", decompress: {kind.decompress}, format: {kind.format}'
            if spec.digest is not None:
                entry += ", " + spec.digest.replace(":", ": '", 1) + "'"
            lines.append(f"  {kind.label}: {{{entry}}}")
        (self._root / "tree").mkdir()
        (self._root / "tree" / "images.yaml").write_text("\n".join(lines) + "\n")

    def _log(self) -> str:
        return (self._root / "log").read_text(errors="replace")[-500:]

    def _wrong(self, where: str, what: str) -> None:
        self._found.violations.append(f"{where}: {what}")


def _kinds(root: Path) -> list[Kind]:
    """Images of every kind of packing: noise, of which nothing can be left out unseen, and a hole."""
    plain = random.Random(1).randbytes(_PLAIN) + bytes(_PLAIN)  # noqa: S311 - as above
    raw, disk = root / "plain.raw", root / "plain.qcow2"
    raw.write_bytes(plain)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    qcow2 = disk.read_bytes()
    return [
        Kind("plain", "none", "raw", "sha256", plain, plain),
        Kind("zstd", "zstd", "qcow2", "sha256", zstandard.compress(qcow2, 1), qcow2),
        Kind("gzip", "gzip", "raw", None, gzip.compress(plain, 1), plain),
        Kind("xz", "xz", "raw", "sha512", lzma.compress(plain, preset=0), plain),
    ]
