"""The image store: what is in it is whole and verified, each image is fetched once, and nothing that dies stops it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ImageUnavailable
from agent.guest.fingerprints import PATIENCE
from agent.guest.image import ImageStore
from agent.guest.landing import NoRoom, Room
from state.ids import Digest
from state.observed import BaseImage, HowFar
from state.spec.resolved import ImageSpec
from tests.dead import dead
from tests.serving import Server, serving
from tests.waiting import DEADLINE, eventually

MIB = 1 << 20
CONTENT = os.urandom(MIB + 4096) + bytes(2 * MIB)


def digest_of(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that is an image."""
    path = tmp_path / "disk.raw"
    path.write_bytes(CONTENT)
    return path


def spec(source: Path | Server, **fields: Any) -> ImageSpec:
    url = source.url if isinstance(source, Server) else source.as_uri()
    return ImageSpec(**({"label": "a", "source": url, "format": "raw"} | fields))


def pinned(source: Path | Server, **fields: Any) -> ImageSpec:
    return spec(source, digest=digest_of(CONTENT), **fields)


async def fetch(store: ImageStore, image: ImageSpec) -> BaseImage:
    return await store.fetch(image, lambda _: None)


async def there(store: ImageStore, image: ImageSpec) -> BaseImage | None:
    return (await store.look([image])).get(image)


def files(directory: Path, pattern: str) -> list[Path]:
    return [path for path in directory.glob(pattern) if path.is_file()]


def unfinished(directory: Path) -> list[Path]:
    return files(directory, ".*")


def fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


# What is in the store


async def test_a_fetched_image_is_there_for_this_agent_and_the_next(
    directory: Path, source: Path
) -> None:
    store = ImageStore(directory)
    for image in (pinned(source), spec(source)):
        assert await there(store, image) is None
        base = await fetch(store, image)
        assert base.path.read_bytes() == CONTENT
        assert base.path.stat().st_mode & 0o777 == 0o444
        assert base == BaseImage(base.path, "raw", len(CONTENT), digest_of(CONTENT))
        for other in (store, ImageStore(directory)):
            assert await there(other, image) == base
            assert await there(other, replace(image, label="b", ssh_user="else")) == base
        for file in (*files(directory, "*"), *files(directory, "sources/*")):
            remove(file)
    await eventually(lambda: unfinished(directory) == [], "nothing is left over")


async def test_what_is_not_as_it_was_pinned_does_not_come_in(directory: Path, source: Path) -> None:
    store = ImageStore(directory)
    image = spec(source, digest=digest_of(b"something else"))
    with pytest.raises(ImageUnavailable, match=r"its digest is sha256:\w+, not sha256:"):
        await fetch(store, image)
    assert await there(store, image) is None
    await eventually(lambda: unfinished(directory) == [], "nothing is left over")


WRONG = [
    "", "[]", "3", "null", '"text"', "{}", "{", "[" * 100_000, '{"size": {}}', "\udcff",
    *(
        json.dumps(told)
        for told in (
            {"size": str(len(CONTENT)), "virtual_size": 512}, {"size": len(CONTENT)},
            {"size": len(CONTENT), "virtual_size": "x"}, {"size": len(CONTENT), "virtual_size": -1},
            {"size": len(CONTENT), "virtual_size": True}, {"size": len(CONTENT), "virtual_size": 1 << 99},
            {"digest": 3}, {"digest": "sha256:../../x"}, {"digest": None}, {"digest": ["sha256"]},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("which", ["*.json", "sources/*.json"])
async def test_a_write_up_of_another_shape_counts_as_none(
    directory: Path, source: Path, text: str, which: str
) -> None:
    image = spec(source)
    await fetch(ImageStore(directory), image)
    (write_up,) = files(directory, which)
    fill(write_up, text.encode(errors="surrogateescape"))
    store = ImageStore(directory)
    assert await there(store, image) is None
    base = await fetch(store, image)
    assert await there(store, image) == base


@pytest.mark.parametrize("fingerprint", ["x", [], [1, 2], [1, 2, "3"], {"a": 1}])
async def test_a_fingerprint_of_another_shape_is_that_of_another_file(
    directory: Path, source: Path, fingerprint: object
) -> None:
    image = spec(source)
    await fetch(ImageStore(directory), image)
    (write_up,) = files(directory, "sources/*.json")
    told = json.loads(write_up.read_text())
    write_up.write_text(json.dumps(told | {"fingerprint": fingerprint}))
    assert await there(ImageStore(directory), image) is None
    remove(source)
    assert await there(ImageStore(directory), image) is not None


async def test_a_disk_that_lost_its_end_is_fetched_once_more_and_no_more(
    directory: Path, source: Path
) -> None:
    """Sabotage: keep whatever lies there. The store then never has the image, and fetches it for ever. Or let it bear
    another time: a machine that holds the file before open is then told that its base was changed."""
    store, image = ImageStore(directory), pinned(source)
    base = await fetch(store, image)
    os.utime(base.path, ns=(10**18, 10**18))
    write_up = base.path.with_name(base.path.name + ".json")
    write_up.write_text(json.dumps(json.loads(write_up.read_text()) | {"modified": 10**18}))
    with base.path.open("rb") as held:
        os.truncate(base.path, 100)
        assert await there(store, image) is None
        assert await fetch(store, image) == base
        assert await there(store, image) == base
        assert base.path.read_bytes() == CONTENT
        assert base.path.stat().st_mode & 0o777 == 0o444
        assert base.path.stat().st_mtime_ns == 10**18
        assert len(held.read()) == 100, "a machine keeps the file that it holds open"


async def test_a_disk_that_is_whole_is_not_replaced(directory: Path, source: Path) -> None:
    store, image = ImageStore(directory), spec(source)
    base = await fetch(store, image)
    before = base.path.stat().st_ino
    os.utime(source, ns=(1, 1))
    assert await there(store, image) is None
    assert await fetch(store, image) == base
    assert await there(store, image) == base
    assert base.path.stat().st_ino == before


# Sources that change


def grow(source: Path) -> None:
    with source.open("ab") as file:
        file.write(b"x")


def rewrite(source: Path) -> None:
    source.write_bytes(CONTENT[::-1])
    os.utime(source, ns=(1, 1))


@pytest.mark.parametrize("change", [grow, rewrite, lambda source: os.truncate(source, 2 * MIB)])
async def test_a_source_that_is_written_while_it_is_read_is_an_error(
    directory: Path, source: Path, change: Callable[[Path], None]
) -> None:
    """Sabotage: compare nothing. A half-written image is then believed, and fetched anew at every pass."""
    store, image = ImageStore(directory), spec(source)
    changed: list[HowFar] = []

    def progress(how_far: HowFar) -> None:
        if not changed:
            changed.append(how_far)
            change(source)

    with pytest.raises(ImageUnavailable, match="it changed while it was read"):
        await store.fetch(image, progress)
    assert changed
    assert await there(store, image) is None
    assert files(directory, "*.raw") == []
    base = await fetch(store, image)
    assert [base.path.read_bytes()] == [path.read_bytes() for path in files(source.parent, "*.raw")]


async def test_a_source_that_grows_as_fast_as_it_is_read_has_an_end(
    directory: Path, source: Path
) -> None:
    """Sabotage: look at it when it has ended."""

    grown = []

    def grows(_: HowFar) -> None:
        grown.append(2 * MIB)
        with source.open("ab") as file:
            file.write(bytes(2 * MIB))

    with pytest.raises(ImageUnavailable, match="it changed while it was read"):
        await ImageStore(directory).fetch(spec(source, max_size=64 * MIB), grows)
    assert sum(grown) < 16 * MIB


async def test_a_source_that_is_replaced_while_it_is_read_is_whole_and_out_of_date(
    directory: Path, source: Path
) -> None:
    store, image = ImageStore(directory), spec(source)
    other = source.with_name("other")
    other.write_bytes(CONTENT[::-1])

    def progress(_: HowFar) -> None:
        with suppress(FileNotFoundError):
            other.rename(source)

    base = await store.fetch(image, progress)
    assert base.path.read_bytes() == CONTENT
    assert await there(store, image) is None
    assert (await fetch(store, image)).path.read_bytes() == CONTENT[::-1]


async def test_a_source_that_is_gone_is_no_reason_to_doubt_what_was_fetched(
    directory: Path, source: Path
) -> None:
    store, image = ImageStore(directory), spec(source)
    base = await fetch(store, image)
    remove(source)
    assert await there(store, image) == base


# Sources that lie elsewhere than was allowed


async def refused(directory: Path, path: Path, why: str) -> None:
    with pytest.raises(ImageUnavailable, match=why):
        await fetch(ImageStore(directory), spec(path))


async def test_a_link_that_is_put_in_the_way_is_not_followed(directory: Path, source: Path) -> None:
    """Sabotage: open the path. A file outside what the operator allows is then read."""
    allowed = source.parent / "allowed"
    (allowed / "below").mkdir(parents=True)
    secret = source.parent / "secret"
    secret.mkdir()
    (secret / "disk.raw").write_bytes(CONTENT)
    (allowed / "disk.raw").symlink_to(secret / "disk.raw")
    await refused(directory, allowed / "disk.raw", "a symbolic link was put there")
    (allowed / "below").rmdir()
    (allowed / "below").symlink_to(secret)
    await refused(directory, allowed / "below" / "disk.raw", "a symbolic link was put there")


async def test_only_a_regular_file_is_read(directory: Path, source: Path) -> None:
    fifo = source.parent / "fifo"
    os.mkfifo(fifo)
    await refused(directory, fifo, "it is no regular file")
    await refused(directory, source.parent, "it is no regular file")
    await refused(directory, source.parent / "missing", "No such file or directory")


async def test_a_path_is_taken_byte_by_byte(directory: Path, source: Path) -> None:
    name = os.fsdecode(b"a%20\xff b?#.raw")
    odd = source.parent / name
    fill(odd, CONTENT)
    assert (await fetch(ImageStore(directory), spec(odd))).path.read_bytes() == CONTENT


# Room


async def test_holes_need_no_room_and_bytes_do_however_small_they_came(
    directory: Path, source: Path
) -> None:
    """Sabotage: look at the disk once for each piece that comes. A small file can then fill it."""
    store = ImageStore(directory, floor=1 << 60)
    fill(source, gzip.compress(bytes(64 * MIB)))
    base = await fetch(store, spec(source, decompress="gzip"))
    assert base.virtual_size == 64 * MIB
    fill(source, gzip.compress(bytes(63 * MIB) + b"x" * MIB))
    with pytest.raises(
        ImageUnavailable, match=r"MiB left for 1 MiB more, and a fetch leaves \d+ MiB \(free"
    ):
        await fetch(store, spec(source, decompress="gzip"))
    await eventually(lambda: unfinished(directory) == [], "nothing is left over")


def test_room_is_refused_when_it_is_used_up(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    room = Room(tmp_path, found.f_bavail * found.f_frsize // 2)
    for _ in range(3):
        room.spend(MIB)
    with pytest.raises(NoRoom):
        room.spend(found.f_bavail * found.f_frsize)


# Several who want one image


async def test_an_image_of_several_labels_is_fetched_once(directory: Path) -> None:
    """Sabotage: a fetch for each. Both then write to what is installed as verified."""
    store, said = ImageStore(directory), {"a": list[HowFar](), "b": list[HowFar]()}
    async with serving(CONTENT) as server, asyncio.TaskGroup() as group:
        one = group.create_task(store.fetch(pinned(server), said["a"].append))
        await eventually(lambda: said["a"], "the first is told how far it is")
        two = group.create_task(
            store.fetch(pinned(server, label="b", ssh_user="else"), said["b"].append)
        )
        await eventually(lambda: said["b"], "the second is told, too")
        server.go_on.set()
        assert await one == await two
        assert server.asked == 1
    assert said["a"][-1] == said["b"][-1] == HowFar(len(CONTENT), len(CONTENT))
    assert one.result().path.read_bytes() == CONTENT
    await eventually(lambda: unfinished(directory) == [], "nothing is left over")


async def test_images_that_differ_in_what_they_are_made_of_are_fetched_beside_each_other(
    directory: Path,
) -> None:
    store = ImageStore(directory)
    async with serving(CONTENT) as server, asyncio.TaskGroup() as group:
        fetches = [
            group.create_task(fetch(store, image)) for image in (pinned(server), spec(server))
        ]
        await eventually(lambda: server.asked == 2, "both ask")
        assert len(unfinished(directory)) == 2
        server.go_on.set()
        assert await fetches[0] == await fetches[1]
    assert fetches[0].result().path.read_bytes() == CONTENT


async def test_few_are_fetched_at_once_and_the_others_when_those_have_come(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: begin with all of them. Fifty windows of 64 MiB are more than many a host has."""
    monkeypatch.setattr("agent.guest.image.AT_ONCE", 2)
    store = ImageStore(directory)
    async with serving(CONTENT) as slow, serving(CONTENT) as quick, asyncio.TaskGroup() as group:
        quick.go_on.set()
        first = [group.create_task(fetch(store, each)) for each in (pinned(slow), spec(slow))]
        await eventually(lambda: slow.asked == 2, "two have begun")
        third = group.create_task(fetch(store, pinned(quick)))
        elsewhere = directory / "elsewhere"
        elsewhere.mkdir()
        await fetch(ImageStore(elsewhere), pinned(quick))  # which begins later
        assert (quick.asked, len(unfinished(directory))) == (1, 2)
        first[0].cancel()
        assert (await third).path.read_bytes() == CONTENT
        slow.go_on.set()
        assert (await first[1]).path.read_bytes() == CONTENT


async def test_who_leaves_does_not_end_a_fetch_for_the_others(directory: Path) -> None:
    store = ImageStore(directory)
    async with serving(CONTENT) as server, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(store, pinned(server)))
        await eventually(lambda: server.asked == 1, "it is on its way")
        second = group.create_task(fetch(store, pinned(server, label="b")))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait((first,))
        server.go_on.set()
        assert (await second).path.read_bytes() == CONTENT
        assert server.asked == 1
        assert server.left == 0


async def test_a_fetch_ends_with_the_last_who_waits_and_can_begin_anew(directory: Path) -> None:
    """Sabotage: let it run on. An agent that leaves then waits for a download that nobody wants."""
    store = ImageStore(directory)
    async with serving(CONTENT) as server, asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(store, pinned(server, label=label))) for label in "ab"]
        await eventually(lambda: server.asked == 1 and unfinished(directory), "it is on its way")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        again = group.create_task(fetch(store, pinned(server)))
        await eventually(lambda: server.left == 1, "the server was left")
        await eventually(lambda: server.asked == 2, "it is asked again")
        server.go_on.set()
        assert (await again).path.read_bytes() == CONTENT
    await eventually(lambda: unfinished(directory) == [], "nothing is left over")
    await eventually(lambda: _own_threads() == [], "no thread is left over")


async def test_all_who_wait_are_told_of_a_failure(directory: Path) -> None:
    store = ImageStore(directory)
    async with serving(CONTENT) as server:
        server.length = len(CONTENT) + 1
        server.go_on.set()
        said = await asyncio.gather(
            *(fetch(store, pinned(server, label=label)) for label in "ab"), return_exceptions=True
        )
        assert server.asked == 1
        assert all(isinstance(one, ImageUnavailable) for one in said)
        server.length, server.says = None, "404 Not Found"
        with pytest.raises(ImageUnavailable, match="the server says 404 Not Found"):
            await fetch(store, pinned(server))


async def test_a_connection_that_is_cut_or_says_nothing_more_leaves_nothing_half_made(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(directory)
    async with serving(CONTENT) as server:
        server.length = len(CONTENT) + 1
        server.go_on.set()
        with pytest.raises(ImageUnavailable):
            await fetch(store, spec(server))
        server.go_on.clear()
        monkeypatch.setattr("agent.guest.http.SILENCE_TIMEOUT", 0.2)
        with pytest.raises(ImageUnavailable):
            await fetch(store, spec(server))
        assert await there(store, spec(server)) is None
        await eventually(lambda: unfinished(directory) == [], "nothing is left over")
        server.length = None
        server.go_on.set()
        assert (await fetch(store, spec(server))).path.read_bytes() == CONTENT


def _own_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if "image" in one.name]


# File systems that do not answer


async def test_a_dead_file_system_leaves_what_was_known(directory: Path, source: Path) -> None:
    """Sabotage: ask in the event loop. The agent then stands still until the file system answers."""
    mount = source.parent / "mount"
    mount.mkdir()
    far = mount / "disk.raw"
    far.write_bytes(CONTENT)
    store, images = ImageStore(directory), [spec(far), spec(source)]
    bases = {image: await fetch(store, image) for image in images}
    with dead(mount):
        os.utime(source, ns=(1, 1))
        for _ in range(3):
            assert await store.look(images) == {images[0]: bases[images[0]]}
        # Who asked about the other one is done in a moment, and leaves.
        await eventually(lambda: _own_threads().count("stat of an image") == 1, "it is asked once")
        begun = asyncio.get_running_loop().time()
        await store.look(images)
        assert asyncio.get_running_loop().time() - begun < PATIENCE, "it is waited for once"
        assert await ImageStore(directory).look(images[:1]) == {images[0]: bases[images[0]]}
    await eventually(lambda: _own_threads() == [], "no thread is left over")
    fill(far, CONTENT[::-1])
    async with asyncio.timeout(DEADLINE):
        while await store.look(images):
            pass  # the late answer is taken first, then it is asked again


LEAVES = """
import asyncio, sys, threading
from pathlib import Path
from agent.guest.image import ImageStore
from state.spec.resolved import ImageSpec

async def main():
    store = ImageStore(Path(sys.argv[1]))
    image = ImageSpec("a", Path(sys.argv[2]).as_uri(), format="raw")
    print(len(await store.look([image])), flush=True)
    async with asyncio.TaskGroup() as group:
        fetch = group.create_task(store.fetch(image, print))
        while not any(one.name == "reader of an image" for one in threading.enumerate()):
            await asyncio.sleep(0)
        fetch.cancel()

asyncio.run(main())
"""


def run(script: str, *words: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


async def test_a_process_leaves_though_a_file_system_is_dead(directory: Path, source: Path) -> None:
    """Sabotage: threads that are no daemons."""
    mount = source.parent / "mount"
    mount.mkdir()
    far = mount / "disk.raw"
    far.write_bytes(CONTENT)
    await fetch(ImageStore(directory), spec(far))
    with dead(mount):
        done = await asyncio.to_thread(run, LEAVES, directory, far)
    assert (done.stdout, done.returncode) == (b"1\n", 0), done.stderr
