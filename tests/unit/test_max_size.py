"""`max_size`: no image is larger than its map allows, and to allow another size changes nothing that there is."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import ImageUnavailable
from agent.guest.image import ImageStore
from agent.plan import plan
from agent.policy import Policy
from state.ids import Digest
from state.observed import Observed, RunState, Seen, Verdict, View
from state.runs import RunPhase
from state.spec.resolved import MAX_SIZE, ImageSpec
from tests.builders import BASE, IMAGE, STATE_ID, desired, job, moment, run, running, vm
from tests.serving import serving

MIB = 1 << 20
SMALL = replace(IMAGE, max_size=MIB)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images")


def ignore(_: object) -> None:
    """How far it is."""


async def test_one_that_says_that_it_is_larger_is_not_downloaded(store: ImageStore) -> None:
    """Sabotage: wait for what comes."""
    async with serving(bytes(2 * MIB)) as server:
        image = ImageSpec("a", server.url, format="raw", max_size=2 * MIB - 1)
        with pytest.raises(
            ImageUnavailable, match=r"it has 2097152 bytes, and its max_size is 2097151"
        ):
            await store.fetch(image, ignore)
        server.go_on.set()
        base = await store.fetch(replace(image, max_size=2 * MIB), ignore)
        assert base.virtual_size == 2 * MIB


async def test_one_that_unpacks_to_more_is_refused(store: ImageStore, tmp_path: Path) -> None:
    source = tmp_path / "disk.gz"
    source.write_bytes(gzip.compress(bytes(8 * MIB)))
    image = ImageSpec("a", source.as_uri(), decompress="gzip", format="raw", max_size=8 * MIB)
    with pytest.raises(ImageUnavailable, match=r"unpacks to more than its max_size, 8388607 bytes"):
        await store.fetch(replace(image, max_size=8 * MIB - 1), ignore)
    base = await store.fetch(image, ignore)
    # It is there for those who allow it.
    assert await store.look([image, replace(image, max_size=MIB)]) == {image: base}


def full(path: Path) -> Path:
    """A qcow2 of 2 MiB for its guest, all of which was written to: its tables come on top."""
    for words in (
        ("qemu-img", "create", "-q", "-f", "qcow2", path, str(2 * MIB)),
        ("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 2M", path),
    ):
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return path


async def test_what_others_were_allowed_to_fetch_is_not_there_for_who_allows_less(
    store: ImageStore, tmp_path: Path
) -> None:
    """Sabotage: ask what its guest sees alone, or nothing. What one map refuses, another then lets in."""
    source = full(tmp_path / "disk.qcow2")
    file = source.stat().st_size
    digest = Digest(f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}")
    image = ImageSpec("a", source.as_uri(), digest)
    base = await store.fetch(image, ignore)
    assert file > base.virtual_size == 2 * MIB
    for size, why in (
        (file - 1, "and its max_size is"),
        (2 * MIB - 1, f"its virtual size is {2 * MIB} bytes, and its|it has {file} bytes, and its"),
    ):
        less = replace(image, max_size=size)
        assert await store.look([image, less]) == {image: base}
        with pytest.raises(ImageUnavailable, match=why):
            await store.fetch(less, ignore)
    assert await store.look([image, replace(image, max_size=file)]) == {
        image: base, replace(image, max_size=file): base,
    }  # fmt: skip


def test_another_bound_changes_nothing_that_there_is() -> None:
    """Sabotage: make it a part of what an image is."""
    serving_vm = running(vm("web"))
    ended = run(job("tests"), RunPhase.SUCCEEDED)
    wish = desired(vm("web", image=SMALL), job("tests", image=SMALL))
    alive = Seen(serving_vm, Verdict.ALIVE, View(RunState.RUNNING), attached=True)
    found = Observed(instances=(alive,), images={IMAGE: BASE}, runs=(ended,))
    decided = plan(wish, found, Policy(STATE_ID, "tcg"), moment())
    assert {(step.name, step.action) for step in decided.steps} <= {
        ("web", "keep"), ("web", "update"), ("tests", "keep"),
    }  # fmt: skip
    assert decided.fetches == ()
    assert SMALL.max_size < MAX_SIZE
