"""When a name that a source does not mention any more is believed to be gone.

An editor that renames before it writes, or a checkout that removes before it creates, leaves moments in which a file is
missing or empty and nobody wants anything deleted. So a name that a source once had is held until it stayed away for a
moment. What a source never had, it lacks at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from state.desired import Desired, Problem, SourceRef
from state.ids import Name

BELIEVED_AFTER = 1.0
"""Seconds. Editors and checkouts take milliseconds between removing a file and writing it; a person who deleted one
does not mind a second."""


@dataclass(frozen=True, slots=True)
class _Absent:
    """A name that vanished: since when, and where it was."""

    since: float
    source: SourceRef


class Absence:
    """Remembers, for one source, which names it had."""

    def __init__(self) -> None:
        self._known: dict[Name, SourceRef] = {}
        self._absent: dict[Name, _Absent] = {}
        self._last: Desired | None = None

    def judge(self, desired: Desired, now: float) -> Desired:
        """`desired` with those names held that vanished less than a moment before `now` (Unix time)."""
        if desired is self._last and not self._absent:
            return desired
        self._last = desired
        present = {name: wanted.source for name, wanted in desired.vms.items()}
        for problem in desired.problems:
            if problem.name is not None:
                present.setdefault(problem.name, SourceRef(problem.file, max(problem.line, 1)))
        if desired.unproven is not None:
            self._absent = {}
            self._known |= present
            return desired
        missing = {}
        for name, source in self._known.items():
            if name in present:
                continue
            before = self._absent.get(name)
            since = now if before is None or now < before.since else before.since
            if now - since < BELIEVED_AFTER:
                missing[name] = _Absent(since, source)
        self._absent = missing
        self._known = present | {name: absent.source for name, absent in missing.items()}
        if not missing:
            return desired
        oldest = min(absent.since for absent in missing.values())
        return replace(
            desired,
            problems=(*desired.problems, *map(_held, missing, missing.values())),
            look_again=oldest + BELIEVED_AFTER - now,
        )


def _held(name: Name, absent: _Absent) -> Problem:
    message = (
        f"vm `{name}` was here a moment ago (it counts as deleted once it stays away for a second)"
    )
    return Problem(
        absent.source.file, absent.source.line, 1, message, name=name, kind="vm", reason="JustGone"
    )
