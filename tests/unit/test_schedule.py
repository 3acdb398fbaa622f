"""What a queued run is told that it waits for."""

from __future__ import annotations

from agent.jobs.schedule import Candidate, Never, Room, schedule
from state.ids import RunId

GIB = 1 << 30


def one(name: str, *labels: str, memory: int = GIB, at: float = 0.0) -> Candidate:
    return Candidate(RunId(name), frozenset(labels or ("debian",)), memory, GIB, 0, at)


def test_a_full_label_is_named_with_its_count() -> None:
    running = [one("1", "ubuntu-22.04"), one("2", "ubuntu-22.04", "ubuntu")]
    turns = schedule([one("3", "ubuntu-22.04")], running, Room(9, {"ubuntu-22.04": 2}))
    assert turns.waits == {"3": "capacity: ubuntu-22.04 2 of 2"}


def test_what_begins_now_counts_for_those_behind_it() -> None:
    line = [one("1", at=1.0), one("2", at=2.0), one("3", "illumos", at=3.0)]
    turns = schedule(line, [], Room(9, {"debian": 1}))
    assert turns.begin == ("1", "3")
    assert turns.waits == {"2": "capacity: debian 1 of 1"}


def test_places_memory_and_disk_are_told_with_what_there_is() -> None:
    big = one("1", memory=4 * GIB)
    assert schedule([big], [one("2")], Room(1)).waits == {"1": "capacity: 1 of 1 jobs"}
    told = schedule([big], [one("2")], Room(2, memory=3 * GIB)).waits
    assert told == {"1": "memory: the first in line needs 4GiB, 3GiB are free"}
    told = schedule([big], [one("2", memory=5 * GIB)], Room(2, memory=-GIB)).waits
    assert told == {"1": "memory: the first in line needs 4GiB, none is free"}
    told = schedule([big], [one("2")], Room(2, disk=GIB // 2)).waits
    assert told == {"1": "disk: the first in line needs 1GiB, 512MiB are free"}


def test_what_would_not_fit_if_no_other_ran_is_told_so_and_overtaken() -> None:
    """Sabotage: let it stand first in line for ever."""
    turns = schedule([one("1", memory=9 * GIB), one("3", at=1.0)], [one("2")], Room(9, memory=GIB))
    assert turns.begin == ("3",)
    assert turns.waits == {}
    why = "memory: it needs 9GiB, 2GiB are free where no job runs"
    assert turns.never == {"1": Never("NotEnoughMemory", why)}
    turns = schedule([one("1"), one("3", at=1.0)], [], Room(9, disk=GIB // 2))
    assert set(turns.never) == {"1", "3"}
    assert {one.reason for one in turns.never.values()} == {"NotEnoughDisk"}
    turns = schedule([one("1"), one("3", "other", at=1.0)], [], Room(9, {"debian": 0}))
    assert turns.begin == ("3",)
    assert turns.never == {
        "1": Never("NoCapacity", "capacity: debian 0 of 0, so that none may run here")
    }
