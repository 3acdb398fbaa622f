"""Why each name was kept, changed, held or left waiting, as the findings that `status` and `explain` show. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.planned import Plan
from agent.steps import Hold, Keep, Step, Wait
from state.desired import Desired, Problem
from state.history import Finding

_NONE: Mapping[str, Finding] = {}


def findings(
    plan: Plan, desired: Desired, before: Mapping[str, Finding] = _NONE
) -> dict[str, Finding]:
    """One finding for each name of the plan, and one for each problem and piece of advice, by a key that is the same
    from pass to pass. A name of which the same was found `before` has the very finding of then: ten thousand new ones
    a pass would cost more than the pass."""
    problems = {problem.name: problem for problem in reversed(desired.problems)}
    found = {}
    for step in plan.steps:
        key = f"{step.kind}/{step.name}"
        problem = problems.get(step.name) if isinstance(step, Hold) else None
        found[key] = _of_step(step, problem, before.get(key))
    for problem in desired.problems:
        scope = "held" if problem.name else "error"
        found[f"problem/{problem}"] = Finding(
            scope=scope,
            reason=problem.reason,
            message=problem.message,
            kind=problem.kind,
            name=problem.name,
            file=problem.file,
            line=problem.line,
            column=problem.column,
        )
    source = desired.source
    if source.error is not None:
        reason = "SourceUnreadable" if source.kind == "directory" else "FetchFailed"
        found["source"] = Finding(scope="error", reason=reason, message=source.error)
    if source.refused is not None:
        found["commit"] = Finding(scope="error", reason="CommitRefused", message=source.refused)
    for advice in desired.advice:
        found[f"advice/{advice.where}/{advice.message}"] = Finding(
            scope="advice",
            reason="Advice",
            message=advice.message,
            file=advice.where.file,
            line=advice.where.line,
        )
    return found


def _of_step(step: Step, problem: Problem | None, before: Finding | None) -> Finding:
    match step:
        case Keep(reason=reason):
            scope = "kept"
        case Wait(reason=reason):
            scope = "waiting"
        case Hold(reason=reason):
            scope = "holding"
        case _:
            scope, reason = "acting", step.action.capitalize()
    place = problem or step.source
    file, line = (place.file, place.line) if place is not None else (None, None)
    column = problem.column if problem else None
    if (
        before is not None
        and (before.scope, before.reason, before.message) == (scope, reason, step.because)
        and (before.file, before.line, before.column) == (file, line, column)
    ):
        return before
    return Finding(
        scope=scope,
        reason=reason,
        message=step.because,
        kind=step.kind,
        name=step.name,
        file=file,
        line=line,
        column=column,
    )


def dated(
    new: Mapping[str, Finding], old: Mapping[str, Finding], wall: float
) -> dict[str, Finding]:
    """The new findings, each since when it says the same: `wall` (Unix time) for what was not said before."""
    result = {}
    for key, finding in new.items():
        before = old.get(key)
        if before is finding:
            result[key] = finding
        elif before is None or (before.reason, before.message) != (finding.reason, finding.message):
            result[key] = replace(finding, since=wall)
        elif _place(before) == _place(finding):
            result[key] = before
        else:
            result[key] = replace(finding, since=before.since)
    return result


def _place(one: Finding) -> tuple[object, ...]:
    """All of it but what it says and since when."""
    return one.scope, one.kind, one.name, one.file, one.line, one.column
