"""What a pass found, written down as far as it differs from the last: an unchanged world costs no write."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from agent.holds import Holds, ended, held
from agent.planned import Plan
from agent.report import dated, findings
from agent.steps import Keep, Step
from state.desired import Desired
from state.history import Event, Finding
from state.ids import Name, Uid
from state.ledger import Ledger
from state.observed import Instance, Observed
from state.records import APPROVED_KEY, GONE_BACK_KEY, SOURCE_KEY

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
    """One turn of the loop, as it was. `reasons` are what woke it; `seconds`: what looking and deciding took."""

    id: str
    reasons: tuple[str, ...]
    desired: Desired
    observed: Observed
    plan: Plan
    seconds: float = 0.0


class Recorder:
    """Remembers what it has written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: Pass | None = None
        self._findings = ledger.reader.findings()
        self._held: Holds = held(self._findings.values())
        self._source = ledger.reader.meta(SOURCE_KEY)
        self._back = ledger.reader.meta(GONE_BACK_KEY) or "{}"

    def record(self, done: Pass, wall: float) -> None:
        """Write the findings, where documents stand now, and which source it was. `wall` is Unix time."""
        if self._last is None or not _same(self._last, done):
            self._write(done, wall)
        self._last = done

    def _write(self, done: Pass, wall: float) -> None:
        new = dated(findings(done.plan, done.desired, self._findings), self._findings, wall)
        if done.desired.unproven is not None:
            # A job that has ended is not gone because its document cannot be looked for.
            new = {key: one for key, one in self._findings.items() if _of_a_job(one)} | new
        gone = self._findings.keys() - new.keys()
        fresh = {key: one for key, one in new.items() if self._findings.get(key) is not one}
        moved = _moved(done)
        holds, over = ended(self._held, held(new.values()), done.desired, done.plan)
        source = json.dumps(asdict(done.desired.source), sort_keys=True)
        back = json.dumps(_gone_back(done), sort_keys=True)
        meta = {SOURCE_KEY: source, GONE_BACK_KEY: back}
        approved = _still_approved(done)
        if approved != done.observed.approved:
            meta[APPROVED_KEY] = json.dumps(sorted(approved))
        unapproved = APPROVED_KEY in meta
        same = (source, back) == (self._source, self._back)
        if same and not (gone or fresh or moved or over or unapproved):
            self._held = holds
            return
        with self._ledger.transaction() as change:
            for key in gone:
                change.remove_finding(key)
            for key, finding in fresh.items():
                change.put_finding(key, finding)
                if (told := _to_tell(finding, self._findings.get(key))) is not None:
                    change.event(_event(told, done.id, wall))
            for name, step in over.items():
                change.event(_released(name, self._held[name], step, done.id, wall))
            for instance in moved:
                change.put_instance(instance)
            for key, value in meta.items():
                change.put_meta(key, value)
        self._findings, self._held = new, holds
        self._source, self._back = source, back


def _same(one: Pass, other: Pass) -> bool:
    """Whether there is nothing to say of the other that was not said of the one."""
    return (
        one.desired is other.desired
        and one.plan.steps == other.plan.steps
        and one.observed.instances == other.observed.instances
        and one.observed.runs == other.observed.runs
        and one.observed.approved == other.observed.approved
    )


def _of_a_job(finding: Finding) -> bool:
    return finding.scope == "kept" and finding.kind == "job"


def _gone_back(done: Pass) -> dict[str, str]:
    """Jobs whose documents say again what an earlier run than the latest has run, and that run."""
    latest = {run.name: run.id for run in done.observed.runs}
    return {
        step.name: step.run
        for step in done.plan.steps
        if isinstance(step, Keep) and step.run is not None and step.run != latest.get(step.name)
    }


def _still_approved(done: Pass) -> frozenset[Uid]:
    """Of what a person lets be destroyed, what is there and still not wanted: an approval does not outlast that."""
    approved = done.observed.approved
    return frozenset(
        one.instance.uid
        for one in done.observed.instances
        if one.instance.uid in approved and one.instance.name not in done.desired.vms
    )


def _moved(done: Pass) -> list[Instance]:
    """Instances that are kept while the document that asks for them stands elsewhere now. The commit alone is no other
    place: it stays the one that brought what the document says."""
    kept = {step.name: step.source for step in done.plan.steps if isinstance(step, Keep)}
    return [
        replace(seen.instance, source=source)
        for seen in done.observed.instances
        if (source := kept.get(seen.instance.name)) is not None
        and (source.file, source.line) != (seen.instance.source.file, seen.instance.source.line)
    ]


def _to_tell(new: Finding, old: Finding | None) -> Finding | None:
    """What is told as having happened where a finding is new or says something else; None: nothing."""
    if _worth_telling(new, old):
        return new
    if old is not None and _answers_again(new, old):
        return replace(new, reason="Responsive", message="its monitor answers again")
    return None


def _worth_telling(new: Finding, old: Finding | None) -> bool:
    if new.scope in _QUIET or new.reason in _EXPECTED:
        return False
    if new.scope == "holding" and new.reason == "InvalidDocument":
        # Each problem of its document is a finding of its own, and told as such.
        return False
    if old is not None and new.reason == old.reason == "FetchingImage":
        return False  # how far it is
    return old is None or (old.reason, old.message) != (new.reason, new.message)


def _answers_again(new: Finding, old: Finding) -> bool:
    """Whether a machine that was told to be silent has been heard."""
    return old.reason == "Unresponsive" and new.scope == "kept" and new.reason != "Connecting"


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
