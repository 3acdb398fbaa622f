"""When a name that a source does not mention any more is believed to be gone.

An editor that renames before it writes, or a checkout that removes before it creates, leaves moments in which a file is
missing or empty and nobody wants anything deleted. So a name that a source once had is held until it stayed away for a
moment in which no other went: what goes piece by piece is believed as a whole. What a source never had, it lacks at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from state.desired import Desired, Problem, SourceRef
from state.ids import Name
from state.spec.kinds import OWNERS

BELIEVED_AFTER = 1.0
"""Seconds. Editors and checkouts take milliseconds between removing a file and writing it; a person who deleted one
does not mind a second."""


Key = tuple[str | None, Name]
"""A kind (None: not clear) and a name: a name whose vm vanished is not there because a job bears it."""


@dataclass(frozen=True, slots=True)
class _Absent:
    """Something that vanished: since when, and where it was."""

    since: float
    source: SourceRef


class Absence:
    """Remembers, for one source, which vms and jobs it had."""

    def __init__(self) -> None:
        self._known: dict[Key, SourceRef] = {}
        self._absent: dict[Key, _Absent] = {}
        self._last: Desired | None = None

    def judge(self, desired: Desired, now: float) -> Desired:
        """`desired` with those names held that vanished less than a moment before `now` (Unix time)."""
        if desired is self._last and not self._absent:
            return desired
        self._last = desired
        present: dict[Key, SourceRef] = {
            ("vm", name): one.source for name, one in desired.vms.items()
        }
        present |= {("job", name): one.source for name, one in desired.jobs.items()}
        held: set[Name] = set()
        for problem in desired.problems:
            if problem.name is not None:
                held.add(problem.name)
                source = SourceRef(problem.file, max(problem.line, 1))
                present.setdefault((problem.kind, problem.name), source)
        if desired.unproven is not None:
            self._absent = {}
            self._known |= present
            return desired
        missing: dict[Key, _Absent] = {}
        for key, source in self._known.items():
            kind, name = key
            if key in present or (kind is None and self._says_more(name, present)):
                continue
            if name in held:
                present[key] = source  # what is held is left as it is, whatever it was
                continue
            before = self._absent.get(key)
            since = now if before is None or now < before.since else before.since
            missing[key] = _Absent(since, source)
        newest = max((absent.since for absent in missing.values()), default=now)
        if now - newest >= BELIEVED_AFTER:
            missing = {}
        self._absent = missing
        self._known = present | {key: absent.source for key, absent in missing.items()}
        if not missing:
            return desired
        gone = {name for _, name in missing}
        return replace(
            desired,
            vms={name: one for name, one in desired.vms.items() if name not in gone},
            jobs={name: one for name, one in desired.jobs.items() if name not in gone},
            problems=(*desired.problems, *map(_held, missing, missing.values())),
            look_again=newest + BELIEVED_AFTER - now,
        )

    def _says_more(self, name: Name, present: Mapping[Key, SourceRef]) -> bool:
        """Whether the kind of what bore a name is or was clear at another time."""
        return any((kind, name) in present or (kind, name) in self._known for kind in OWNERS)


def _held(key: Key, absent: _Absent) -> Problem:
    kind, name = key
    message = (
        f"{kind or 'document'} `{name}` was here a moment ago (it counts as deleted once it stays"
        " away for a second)"
    )
    return Problem(
        absent.source.file, absent.source.line, 1, message, name=name, kind=kind, reason="JustGone"
    )
