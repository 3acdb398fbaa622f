"""Which run of a job a person means."""

from __future__ import annotations

from agent.cli.reading import open_reader
from agent.errors import BadInput
from agent.paths import StatePaths
from state.ids import Name
from state.runs import Run

_SHORTEST = 4
"""Characters of an id that are enough, where no other run's begins with them."""


def runs_of(state: StatePaths, name: str) -> list[Run]:
    """The runs of a job that are remembered, oldest first."""
    reader = open_reader(state)
    try:
        return reader.runs(Name(name))
    finally:
        reader.close()


def meant(state: StatePaths, name: str, said: str | None) -> Run:
    """The run with the number or the id, or the beginning of one, that was said; where nothing was, the one that
    `status` speaks of. Raises BadInput."""
    reader = open_reader(state)
    try:
        runs, spoken_of = reader.runs(Name(name)), reader.spoken_of().get(Name(name))
    finally:
        reader.close()
    if spoken_of is None:
        raise BadInput(f"there is no job `{name}` here", hint="`holdfast status` lists every name")
    if said is None:
        return spoken_of
    numbered = [run for run in runs if str(run.number) == said]
    named = [run for run in runs if len(said) >= _SHORTEST and run.id.startswith(said.lower())]
    found = numbered or named
    if len(found) != 1:
        raise BadInput(
            f"{name} has {'several runs' if found else 'no run'} `{said}`",
            hint=f"`holdfast job history {name}` lists them",
        )
    return found[0]
