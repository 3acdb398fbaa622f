"""Which vms depend on each other in a circle, so that none of them could ever be started. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

from agent.source.documents import Reading
from state.ids import Name
from state.spec.complaints import Path
from state.spec.vm import VmDocument

_MOST_SHOWN = 6


def circles(readings: Iterable[Reading]) -> Iterator[tuple[Reading, Path, str]]:
    """Each vm that stands in a circle: its document, the path to the dependency that leads on in it, and what is wrong.
    What merely depends on a circle is not told: it waits."""
    found = {
        reading.document.name: (reading, reading.document)
        for reading in readings
        if isinstance(reading.document, VmDocument) and reading.document.depends_on
    }
    leads = {name: document.depends_on for name, (_, document) in sorted(found.items())}
    while (circle := _circle(leads)) is not None:
        for at, name in enumerate(circle):
            reading, document = found[name]
            onward = [*circle[at:], *circle[:at], name]
            shown = [*onward[: _MOST_SHOWN - 2], "…", name] if len(onward) > _MOST_SHOWN else onward
            message = (
                f"`depends_on` leads in a circle, {' -> '.join(shown)}, so that none of them could be started (remove"
                " one of these dependencies)"
            )
            yield reading, ("depends_on", document.depends_on.index(onward[1])), message
            del leads[name]


def _circle(leads: dict[Name, tuple[Name, ...]]) -> list[Name] | None:
    """The names of one circle, each depending on the next and the last on the first; None where there is none."""
    try:
        TopologicalSorter(leads).prepare()
    except CycleError as error:
        names: list[Name] = error.args[1]
        return names[:0:-1]
    return None
