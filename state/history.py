"""What is told of the past and of the last pass: events, steps, findings."""

from __future__ import annotations

from dataclasses import dataclass

from state.ids import Name, Uid


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` grows; `at` is Unix time; `pass_id` is empty for what no pass brought about."""

    at: float
    reason: str
    message: str
    name: Name | None = None
    uid: Uid | None = None
    kind: str | None = None
    pass_id: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as it was begun and as it ended; `ended_at` None: under way, or its agent died."""

    id: int
    pass_id: str
    action: str
    kind: str
    name: Name
    because: str
    begun_at: float
    uid: Uid | None = None
    generation: int | None = None
    ended_at: float | None = None
    outcome: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the last pass's report; `since` is the Unix time of the first pass that said so.

    `scope` is `kept`, `waiting`, `holding` or `acting` for what the pass made of a name, `held` for a problem that
    certainly concerns one name, `error` for one that may concern any, and `advice`.
    """

    scope: str
    reason: str
    message: str
    kind: str | None = None
    name: Name | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None
    since: float = 0.0
