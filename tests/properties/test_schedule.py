"""Whose turn it is, whatever stands in line. Each property names the sabotage that it was seen to catch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.jobs.schedule import Candidate, Room, Turns, schedule
from state.ids import RunId

GIB = 1 << 30
LABELS = ("illumos", "ubuntu", "debian")

candidates = st.builds(
    Candidate,
    id=st.uuids().map(lambda one: RunId(str(one))),
    labels=st.sets(st.sampled_from(LABELS), min_size=1, max_size=2).map(frozenset),
    memory=st.integers(1, 8).map(lambda count: count * GIB),
    disk=st.integers(1, 3).map(lambda count: count * GIB),
    priority=st.integers(-2, 2),
    queued_at=st.integers(0, 5).map(float),
)
lines = st.lists(candidates, max_size=12, unique_by=lambda one: one.id)
rooms = st.builds(
    Room,
    places=st.integers(0, 6),
    labels=st.dictionaries(st.sampled_from(LABELS), st.integers(0, 3)),
    memory=st.none() | st.integers(-4, 20).map(lambda count: count * GIB),
    disk=st.none() | st.integers(0, 6).map(lambda count: count * GIB),
)


def first(one: Candidate) -> tuple[int, float, str]:
    return (-one.priority, one.queued_at, one.id)


def begun(queued: list[Candidate], turns: Turns) -> list[Candidate]:
    by_id = {one.id: one for one in queued}
    return [by_id[one] for one in turns.begin]


@given(lines, lines, rooms)
def test_every_run_begins_or_has_a_reason(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    turns = schedule(queued, active, room)
    answers = [*turns.begin, *turns.waits, *turns.never]
    assert sorted(answers) == sorted(one.id for one in queued)
    assert all((*turns.waits.values(), *turns.never.values()))


@given(lines, lines, rooms)
def test_no_more_begin_than_there_is_room_for(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    """Sabotage: leave what is active out of the count of a label."""
    chosen = begun(queued, schedule(queued, active, room))
    if chosen:
        assert len(chosen) + len(active) <= room.places
        assert room.memory is None or sum(one.memory for one in chosen) <= room.memory
        assert room.disk is None or sum(one.disk for one in chosen) <= room.disk
    busy = Counter(label for one in (*chosen, *active) for label in one.labels)
    for one in chosen:
        assert all(busy[label] <= room.labels.get(label, busy[label]) for label in one.labels)


@given(lines, lines, rooms)
def test_what_fits_only_beside_fewer_vms_stands_in_nobodys_way(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    """Sabotage: forget what the active ones hold. The large then never stand in line, and starve; or leave the largest
    in the line, where it stops every other for ever."""
    turns = schedule(queued, active, room)
    memory = None if room.memory is None else room.memory + sum(one.memory for one in active)
    disk = None if room.disk is None else room.disk + sum(one.disk for one in active)
    fits = [
        one
        for one in queued
        if (memory is None or one.memory <= memory)
        and (disk is None or one.disk <= disk)
        and all(room.labels.get(label) != 0 for label in one.labels)
    ]
    assert {one.id for one in queued if one not in fits} == {*turns.never}
    assert schedule(fits, active, room) == replace(turns, never={})
    if fits and all(label not in room.labels for label in LABELS):
        # With nothing under way, the first of the rest has its turn.
        idle = replace(room, places=1, memory=memory, disk=disk)
        assert schedule(queued, [], idle).begin == (min(fits, key=first).id,)


@given(lines, lines, rooms)
def test_the_first_in_line_begins_where_there_is_room_for_it(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    """Sabotage: take the line from its end."""
    if not queued:
        return
    head = min(queued, key=first)
    alone = schedule([head], active, room)
    assert (head.id in alone.begin) == (head.id in schedule(queued, active, room).begin)


@given(lines, lines, rooms)
def test_only_a_full_label_is_overtaken(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    """Sabotage: let small runs past one that waits for memory that others will give back. It then waits for as long
    as small ones come."""
    turns = schedule(queued, active, room)
    chosen = begun(queued, turns)
    for waiting in (one for one in queued if one.id in turns.waits):
        if any(first(one) > first(waiting) for one in chosen):
            before = [one for one in chosen if first(one) < first(waiting)]
            busy = Counter(label for one in (*before, *active) for label in one.labels)
            assert any(busy[label] >= room.labels.get(label, 1 << 30) for label in waiting.labels)
            assert turns.waits[waiting.id].startswith("capacity: ")


@given(lines, st.sampled_from(LABELS), rooms)
def test_a_crowd_of_one_label_takes_nothing_from_the_others(
    queued: list[Candidate], crowded: str, room: Room
) -> None:
    """Sabotage: let a full label block the line. Whoever stands behind its crowd then starves."""
    room = replace(room, labels={**room.labels, crowded: 0})
    others = [one for one in queued if crowded not in one.labels]
    assert schedule(queued, [], room).begin == schedule(others, [], room).begin


@given(lines, lines, rooms)
def test_the_same_line_in_another_order_is_the_same_line(
    queued: list[Candidate], active: list[Candidate], room: Room
) -> None:
    assert schedule(queued, active, room) == schedule(queued[::-1], active[::-1], room)
