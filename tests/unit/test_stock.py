"""Images that nobody needs: which those are, taking them out, and that they make way for one that finds no room."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.doing import Doing
from agent.errors import Blocked, ImageUnavailable, NoRoomForImage
from agent.fetching import Fetching
from agent.guest.image import ImageStore
from agent.guest.shelf import Shelf
from agent.hypervisor.api import Backend, Kept
from agent.hypervisor.memory import MemoryHost
from agent.operator import Operator
from agent.planned import Plan
from agent.stock import prune, unneeded
from state.ids import Digest, Name, Uid
from state.ledger import Ledger
from state.observed import BaseImage, StoredImage
from state.records import instance_row
from state.runs import RunPhase
from state.spec.resolved import ImageSpec
from tests.builders import desired, instance, job, moment, run, vm
from tests.mounting import mounted

MIB = 1 << 20
NOTHING = desired(vm("other"))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Eight MiB for the store; skipped where nothing can be mounted."""
    path = tmp_path / "images"
    path.mkdir()
    with mounted(path, "8m,mode=0700"):
        yield path


@pytest.fixture
def store(directory: Path) -> ImageStore:
    return ImageStore(directory, floor=MIB)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db")) as opened:
        yield opened


def on(store: ImageStore, *records: str) -> Backend:
    """A host with that store, and with machines that have these files."""
    made = MemoryHost().backend()

    class Keeping(type(made.hypervisor)):  # type: ignore[misc]
        def kept(self, but: Collection[Uid] = ()) -> list[Kept]:
            return [Kept(Uid(str(at)), Name("web"), 1, record) for at, record in enumerate(records)]

    return replace(made, images=store, hypervisor=Keeping(MemoryHost()))


async def test_a_machine_that_the_ledger_has_lost_keeps_what_it_stands_on(
    store: ImageStore, directory: Path, ledger: Ledger
) -> None:
    """Sabotage: believe the ledger alone. A new one knows nobody."""
    base = await fetched(store, source(directory, "web"))
    record = json.dumps(instance_row(instance(base=base), qmp=""))
    assert await prune(ledger, on(store, record), NOTHING) == []
    for unreadable in ("", "{}", "[]", '{"base": "x"}'):
        with pytest.raises(Blocked, match="do not tell which it stands on"):
            await prune(ledger, on(store, record, unreadable), NOTHING)
    assert paths(await prune(ledger, on(store), NOTHING)) == [base.path]


def source(directory: Path, name: str, size: int = 2 * MIB) -> ImageSpec:
    """An image of random bytes beside the store."""
    path = directory.with_name(f"{name}.raw")
    path.write_bytes(os.urandom(size))
    return ImageSpec(name, path.as_uri(), format="raw")


async def fetched(store: ImageStore, image: ImageSpec, used_at: float = 0.0) -> BaseImage:
    """One that is in the store, and when it was last wanted."""
    base = await store.fetch(image, lambda _: None)
    os.utime(f"{base.path}.json", (used_at, used_at))
    return base


def paths(images: list[StoredImage]) -> list[Path]:
    return [one.base.path for one in images]


async def test_what_is_wanted_or_stood_on_is_needed_and_the_rest_is_told_oldest_first(
    store: ImageStore, directory: Path, ledger: Ledger
) -> None:
    """Sabotage: leave out any of the five who may need one. What a held name was last given makes it again."""
    needed = ("of-vm", "of-job", "of-run", "of-instance", "given")
    names = (*needed, "new", "old", "of-ended")
    images = {name: source(directory, name, MIB // 4) for name in names}
    bases = {
        name: await fetched(store, image, 1000.0 - at)
        for at, (name, image) in enumerate(images.items())
    }
    with ledger.transaction() as change:
        change.put_run(run(job("queued", image=images["of-run"])))
        change.put_run(run(job("done", image=images["of-ended"]), RunPhase.SUCCEEDED))
        given = vm("there", image=images["given"])
        change.put_instance(instance(given, base=bases["of-instance"]))
    wish = desired(vm("web", image=images["of-vm"]), job("tests", image=images["of-job"]))
    spare = await unneeded(ledger, on(store), wish)
    assert paths(spare) == [bases[name].path for name in ("of-ended", "old", "new")]
    taken = await prune(ledger, on(store), wish, 1)
    assert taken == spare[:1]
    assert await prune(ledger, on(store), wish) == spare[1:]
    assert sorted(paths(list(await store.stored()))) == sorted(bases[name].path for name in needed)


async def test_an_instance_that_is_begun_meanwhile_keeps_its_base(
    store: ImageStore, directory: Path, ledger: Ledger
) -> None:
    """Sabotage: believe what was found before others had their turn."""
    first = await fetched(store, source(directory, "first", MIB), 1.0)
    second = await fetched(store, source(directory, "second", MIB), 2.0)

    class Meanwhile(ImageStore):
        async def remove(self, image: StoredImage) -> None:
            with ledger.transaction() as change:
                change.put_instance(instance(vm("web"), base=second))
            await super().remove(image)

    assert paths(await prune(ledger, on(Meanwhile(directory)), NOTHING)) == [first.path]
    assert second.path.exists()


async def test_a_disk_that_does_not_count_takes_room_and_is_taken_out(
    store: ImageStore, directory: Path, ledger: Ledger
) -> None:
    base = await fetched(store, source(directory, "half"))
    base.path.with_name(f"{base.path.name}.json").unlink()
    (directory / "notes").write_text("somebody else's")
    (directory / ".x.part").write_text("on its way")
    [stored] = await ImageStore(directory).stored()
    assert (stored.base.path, stored.source, stored.size) == (base.path, "", 2 * MIB)
    await prune(ledger, on(store), NOTHING)
    assert sorted(os.listdir(directory)) == [".x.part", "notes", "sources"]


async def test_being_wanted_is_put_down(store: ImageStore, directory: Path) -> None:
    image = source(directory, "web")
    await fetched(store, image, 1.0)
    await ImageStore(directory).look([image])
    [stored] = await store.stored()
    assert stored.used_at > 1.0
    assert stored.fetched_at <= stored.used_at


async def test_what_nobody_needs_makes_way_the_longest_unused_first(
    store: ImageStore, directory: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: give up at the first refusal, or take out what is needed."""
    monkeypatch.setattr("agent.fetching.LEAST_FREED", 1)
    needed, old, new = (source(directory, name) for name in ("needed", "old", "new"))
    kept = await fetched(store, needed, 1.0)
    gone = await fetched(store, old, 2.0)
    spared = await fetched(store, new, 3.0)
    fetching = Fetching(ledger, on(store), moment, Doing())
    third = source(directory, "third")
    wish = desired(vm("web", image=needed))
    await fetching.fetch(third, "pass", wish)
    there = paths(list(await store.stored()))
    assert gone.path not in there
    assert {kept.path, spared.path} <= set(there)
    assert [one.reason for one in ledger.reader.events()] == ["ImageRemoved", "ImageFetched"]
    # Where all that lies there is needed, it is an error that says so, and all stays.
    everything = desired(
        vm("a", image=needed), vm("b", image=new), vm("c", image=third), vm("d", image=old)
    )
    await fetching.fetch(old, "pass", everything)
    assert "MiB left" in ledger.reader.events()[-1].message
    assert paths(list(await store.stored())) == there
    # Who needs what is not known while the documents cannot be read.
    await fetching.fetch(old, "pass", desired(unproven="the tree is gone"))
    assert paths(list(await store.stored())) == there


async def test_what_a_fetch_itself_leaves_behind_makes_no_room_for_it(
    directory: Path, ledger: Ledger
) -> None:
    """Sabotage: go on while anything is taken out. The same is then fetched and removed for ever."""
    left = directory / f"sha256-{'a' * 64}.raw"
    tries: list[ImageSpec] = []

    class Full(ImageStore):
        async def fetch(self, image: ImageSpec, progress: object) -> BaseImage:
            tries.append(image)
            if len(tries) > 9:
                raise ImageUnavailable("it is tried for ever")
            write(left)
            raise NoRoomForImage("there is no room", short=1)

    fetching = Fetching(ledger, on(Full(directory)), moment, Doing())
    await fetching.fetch(source(directory, "web"), "pass", NOTHING)
    assert ledger.reader.events()[-1].message == "there is no room"
    assert len(tries) == 2


def write(path: Path) -> None:
    path.write_bytes(b"x")


async def test_room_is_looked_for_before_anything_is_downloaded(
    store: ImageStore, directory: Path
) -> None:
    large = source(directory, "large", 8 * MIB)
    with pytest.raises(NoRoomForImage, match="MiB left for 8 MiB more") as caught:
        await store.fetch(large, lambda _: None)
    assert caught.value.short >= MIB
    assert await store.stored() == []


async def test_nothing_is_removed_by_hand_while_it_cannot_be_told_what_is_needed(
    store: ImageStore, directory: Path, ledger: Ledger
) -> None:
    base = await fetched(store, source(directory, "web"))
    operator = Operator(ledger, moment, on(store))
    with pytest.raises(Blocked, match="no documents were read yet"):
        await operator.prune()
    operator.passed(Plan(()), desired(unproven="/desired is gone"))
    with pytest.raises(Blocked, match="/desired is gone"):
        await operator.prune()
    operator.passed(Plan(()), NOTHING)
    assert paths(await operator.prune(dry_run=True)) == [base.path]
    assert base.path.exists()
    assert paths(await operator.prune()) == [base.path]
    assert not base.path.exists()
    assert await operator.prune() == []


def test_a_disk_is_told_by_the_digest_that_it_bears(tmp_path: Path) -> None:
    name = f"sha512-{'a' * 128}.zstd.qcow2"
    (tmp_path / name).write_bytes(b"x")
    [stored] = Shelf(tmp_path).stored()
    assert stored.base == BaseImage(tmp_path / name, "qcow2", 1, Digest(f"sha512:{'a' * 128}"))
