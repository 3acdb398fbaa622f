"""A disk that is nearly full: nothing new begins and the reason says so, what is there is looked after, and images that
nobody needs make way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state.ids import Name
from state.observed import DISK_FLOOR, RunState
from tests.builders import IMAGE, desired, job, vm
from tests.memory.world import Lab

OTHER = replace(IMAGE, label="other", source="file:///images/other.qcow2", digest=None)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


def reason(lab: Lab, name: str) -> str:
    steps = lab.passes[-1].plan.steps if lab.passes else ()
    return next((getattr(step, "reason", "") for step in steps if step.name == name), "")


async def test_nothing_new_begins_below_the_floor_and_the_reason_says_so(lab: Lab) -> None:
    """Sabotage: leave out the look at the disk for any of a new vm, a replacement and a job."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        web = lab.instance()
        lab.host.free_disk = DISK_FLOOR - 1
        lab.edit(desired(vm("web", memory=1 << 30), vm("db"), job("tests")))
        await lab.until(
            lambda: {reason(lab, name) for name in ("web", "db", "tests")} == {"NotEnoughDisk"},
            "they wait",
        )
        db = next(step for step in lab.passes[-1].plan.steps if step.name == "db")
        assert db.because == "the disk has 511MiB left, and nothing new begins below 512MiB"
        assert lab.uids() == {"web": web.uid}
        assert list(lab.host.guests) == [web.uid]
        lab.host.free_disk = 4 << 30
        lab.look()
        await lab.settled()
        assert lab.uids().keys() == {"web", "db"}
        assert lab.instance().generation == 2


async def test_what_is_there_is_looked_after_on_a_full_disk(lab: Lab) -> None:
    """Sabotage: hold back whatever acts. What died stays dead then, and nothing can be removed to make room."""
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db"), vm("third")))
        await lab.settled()
        before = lab.uids()
        lab.host.free_disk = 0
        lab.host.guest(before[Name("web")], RunState.OFF)
        lab.edit(desired(vm("web"), vm("db", power="stopped"), vm("third", labels=(("a", "b"),))))
        await lab.settled()
        assert lab.instance("web").restarts == 1
        assert lab.uids() == {name: before[name] for name in (Name("web"), Name("third"))}
        lab.edit(desired(vm("third")))
        await lab.settled()
        assert list(lab.host.guests) == [before[Name("third")]]


async def test_images_that_nobody_needs_make_way_for_what_is_new(lab: Lab) -> None:
    """Sabotage: prune for fetches alone."""
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db", image=OTHER)))
        await lab.settled()
        lab.edit(desired(vm("web")))
        await lab.settled()
        images = lab.host.backend().images
        assert len(await images.stored()) == 2
        lab.host.free_disk = 0
        lab.edit(desired(vm("web"), vm("new")))
        await lab.settled()
        assert lab.uids().keys() == {"web", "new"}
        assert [one.base.digest for one in await images.stored()] == [IMAGE.digest]
        assert lab.ledger is not None
        said = [one.message for one in lab.ledger.reader.events() if one.reason == "ImageRemoved"]
        assert len(said) == 1
        assert said[0].endswith("which nobody needs, made room for new")


async def test_nothing_makes_way_while_it_cannot_be_told_what_is_needed(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", image=OTHER)))
        await lab.settled()
        lab.edit(desired(vm("db")))
        await lab.settled()
        lab.host.free_disk = 0
        lab.edit(replace(desired(vm("db"), vm("new")), unproven="a file is broken"))
        await lab.until(lambda: reason(lab, "new") == "NotEnoughDisk", "it waits")
        assert len(await lab.host.backend().images.stored()) == 2
