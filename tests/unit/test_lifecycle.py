"""The phases: the drawing in the module's docstring says what the table of moves says."""

from __future__ import annotations

import re
from itertools import pairwise, product

import pytest

from state import lifecycle
from state.lifecycle import MOVES, IllegalMove, Phase, move

ARROW = " ---> "
GONE = "(gone"


def drawn() -> set[tuple[str, str]]:
    """Every arrow of the docstring's drawing. What follows after two spaces on a line is a remark."""
    assert lifecycle.__doc__ is not None
    found: set[tuple[str, str]] = set()
    for line in lifecycle.__doc__.splitlines():
        if ARROW not in line:
            continue
        shape = re.split(r"(?<=\w)\s{2,}(?=\w)", line.strip())[0]
        stations = [part.split(", ") for part in shape.split(ARROW)]
        for sources, targets in pairwise(stations):
            found |= set(product(sources, targets))
    return {(old, new) for old, new in found if not new.startswith(GONE)}


def test_the_drawing_and_the_table_agree() -> None:
    """Sabotage: leave one arrow of either out."""
    table = {(old.value, new.value) for old, targets in MOVES.items() for new in targets}
    assert drawn() == {(old, new) for old, new in table if old != new}


def test_the_drawing_ends_where_a_row_is_removed() -> None:
    assert lifecycle.__doc__ is not None
    assert re.findall(r"(\w+) ---> \(gone", lifecycle.__doc__) == ["stopping"]


def test_every_phase_is_explained_once() -> None:
    assert lifecycle.__doc__ is not None
    explained = re.findall(r"^- (\w+) ", lifecycle.__doc__, re.MULTILINE)
    assert explained == [phase.value for phase in Phase]


@pytest.mark.parametrize("old", Phase)
@pytest.mark.parametrize("new", Phase)
def test_a_move_is_made_or_refused_as_the_table_says(old: Phase, new: Phase) -> None:
    if new in MOVES[old]:
        assert move(old, new) is new
    else:
        with pytest.raises(IllegalMove, match=f"cannot go from {old} to {new}"):
            move(old, new)


@pytest.mark.parametrize("phase", Phase)
def test_any_phase_may_be_recorded_again(phase: Phase) -> None:
    """An instance is written whole, also when something else about it has changed."""
    assert move(phase, phase) is phase


def test_what_never_ran_is_nowhere_to_return_to() -> None:
    assert not any(Phase.PENDING in MOVES[phase] for phase in Phase if phase is not Phase.PENDING)
