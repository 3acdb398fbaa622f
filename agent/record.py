"""What a pass found, written down as far as it differs from the last: an unchanged world costs no write."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from agent.holds import Holds, ended, held
from agent.report import dated, findings
from agent.steps import Keep, Plan, Step
from state.desired import Desired
from state.history import Event, Finding
from state.ids import Name
from state.ledger import Ledger
from state.observed import Instance, Observed
from state.records import SOURCE_KEY

_QUIET = frozenset({"acting", "advice"})
_EXPECTED = frozenset(
    {
        "Ready",
        "Running",
        "Booting",
        "Connecting",
        "Stopped",
        "Paused",
        "InProgress",
        "BackOff",
        "Retrying",
        "JustGone",
        "Unhealthy",
    }
)
"""Reasons that steps tell of by events of their own."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One turn of the loop, as it was. `reasons` are what woke it."""

    id: str
    reasons: tuple[str, ...]
    desired: Desired
    observed: Observed
    plan: Plan


class Recorder:
    """Remembers what it has written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._findings = ledger.reader.findings()
        self._held: Holds = held(self._findings.values())
        self._source = ledger.reader.meta(SOURCE_KEY)

    def record(self, done: Pass, wall: float) -> None:
        """Write the findings, where documents stand now, and which source it was. `wall` is Unix time."""
        new = dated(findings(done.plan, done.desired), self._findings, wall)
        gone = self._findings.keys() - new.keys()
        fresh = {key: one for key, one in new.items() if self._findings.get(key) != one}
        moved = _moved(done)
        holds, over = ended(self._held, held(new.values()), done.desired, done.plan)
        source = json.dumps(asdict(done.desired.source), sort_keys=True)
        if not (gone or fresh or moved or over or source != self._source):
            self._held = holds
            return
        with self._ledger.transaction() as change:
            for key in gone:
                change.remove_finding(key)
            for key, finding in fresh.items():
                change.put_finding(key, finding)
                if _worth_telling(finding, self._findings.get(key)):
                    change.event(_event(finding, done.id, wall))
            for name, step in over.items():
                change.event(_released(name, self._held[name], step, done.id, wall))
            for instance in moved:
                change.put_instance(instance)
            change.put_meta(SOURCE_KEY, source)
        self._findings, self._held, self._source = new, holds, source


def _moved(done: Pass) -> list[Instance]:
    """Instances that are kept while the document that asks for them stands elsewhere now."""
    kept = {step.name: step.source for step in done.plan.steps if isinstance(step, Keep)}
    return [
        replace(seen.instance, source=source)
        for seen in done.observed.instances
        if (source := kept.get(seen.instance.name)) is not None and source != seen.instance.source
    ]


def _worth_telling(new: Finding, old: Finding | None) -> bool:
    if new.scope in _QUIET or new.reason in _EXPECTED:
        return False
    if new.scope == "holding" and new.reason == "InvalidDocument":
        # Each problem of its document is a finding of its own, and told as such.
        return False
    return old is None or (old.reason, old.message) != (new.reason, new.message)


def _released(name: Name, kind: str, step: Step | None, pass_id: str, wall: float) -> Event:
    what = f"{step.action}: {step.because}" if step is not None else "nothing of it is left"
    return Event(
        at=wall,
        reason="Released",
        message=f"it is no longer held; {what}",
        name=name,
        kind=kind,
        pass_id=pass_id,
    )


def _event(finding: Finding, pass_id: str, wall: float) -> Event:
    place = ""
    if finding.file and finding.scope in ("held", "error"):
        place = finding.file + (f":{finding.line}:{finding.column}" if finding.line else "") + ": "
    return Event(
        at=wall,
        reason=finding.reason,
        message=place + finding.message,
        name=finding.name,
        kind=finding.kind,
        pass_id=pass_id,
    )
