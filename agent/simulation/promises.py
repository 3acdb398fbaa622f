"""The promises that are checked throughout a simulation, by what is brought about in the world and never by the plan.

- I1   one name never runs twice
- I3   after the first pass of an agent every machine has a row
- I4   no machine is ended, and no disk removed, that the documents did not ask to end
- I5   what has come to rest is left alone: nothing is done and nothing is written
- I6   no wait without an end: a name is not held up by the troubles of others
- I7   a script starts as often as its document allows, and nothing succeeds that did not exit with 0
- I9   what was told as done is there after a kill, and the database is sound
- I10  a secret is in no log
- I11  when the faults are over, everything becomes as it is wanted
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.hypervisor.memory import MemoryHost
from agent.hypervisor.memory.work import Work
from agent.hypervisor.memory.world import Guest
from agent.simulation.author import CANARY
from agent.simulation.time import Clock
from state.desired import Desired
from state.history import Event
from state.ids import Name, Uid
from state.ledger import Ledger
from state.lifecycle import Phase
from state.observed import Instance, RunState
from state.records import instance_of
from state.runs import Run, RunPhase
from state.spec.effects import Effect
from state.spec.resolved import VmSpec, changes
from state.spec.resolved_job import JobSpec


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, when (seconds since the beginning) and how."""

    promise: str
    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.2f} s: {self.what}"


class Promises:
    """Sees everything that agents bring about on one host, and remembers what the documents said when."""

    def __init__(self, host: MemoryHost, clock: Clock) -> None:
        self.violations: list[Violation] = []
        self._host = host
        self._clock = clock
        self._wishes: list[tuple[float, Desired]] = []
        self._made: dict[Uid, float] = {}
        self._named: dict[Name, set[Uid]] = {}
        self._ran: set[Uid] = set()
        self._moved: dict[str, float] = {}
        self._begun: dict[str, list[Work]] = {}
        self._told: Event | None = None

    def broken(self, promise: str, what: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(promise, self._clock(), what))

    def wished(self, desired: Desired) -> None:
        """From now on the documents say this."""
        self._wishes.append((self._clock(), desired))

    def content_changed(self, source: str) -> None:
        """From now on an image's source holds something else."""
        self._moved[source] = self._clock()

    # What agents bring about

    def effect(self, operation: str, uid: Uid) -> None:
        """An agent has done this to a machine, just now or, where it takes something away, in a moment."""
        guest = self._host.guests[uid]
        match operation:
            case "prepare":
                self._made.setdefault(uid, self._clock())
                self._named.setdefault(guest.machine.name, set()).add(uid)
            case "resume":
                self._ran.add(uid)
                self._once(uid, guest)
            case "stop" if guest.state is RunState.RUNNING and not guest.frozen:
                self._asked_for(uid, guest, "ended", power=True)
            case "discard" if uid in self._ran:
                self._asked_for(uid, guest, "removed with its disk", power=False)
            case _:
                pass

    def begun(self, run: str, work: Work) -> None:
        """A script has been started."""
        self._begun.setdefault(run, []).append(work)

    def told(self, event: Event) -> None:
        """An agent says that something is done, and durable."""
        self._told = event
        if event.reason == "Bug":
            self.broken("bug", event.message)

    def _once(self, uid: Uid, guest: Guest) -> None:
        for other in self._named[guest.machine.name] - {uid}:
            one = self._host.guests.get(other)
            if one is not None and one.process is not None and one.state is not RunState.INERT:
                self.broken("I1", f"{one.machine.name} runs as {other} and as {uid}")

    def _asked_for(self, uid: Uid, guest: Guest, what: str, *, power: bool) -> None:
        """Whether at any time since the machine was made readable documents asked for its end."""
        machine = _recorded(guest)
        if machine is None or machine.kind == "job":
            return
        spec = machine.vm_spec
        if self._moved.get(spec.image.source, -1.0) >= 0.0 and spec.image.digest is None:
            return
        since = self._made.get(uid, 0.0)
        if not any(_asks(wish, spec, power) for wish in self._during(since)):
            self.broken("I4", f"{spec.name} ({uid}) was {what}, and no document asked for that")

    def _during(self, since: float) -> Iterator[Desired]:
        for (_, wish), (until, _) in zip(
            self._wishes, [*self._wishes[1:], (self._clock() + 1.0, Desired)], strict=True
        ):
            if until >= since:
                yield wish

    # What is there

    def recovered(self, ledger: Ledger) -> None:
        """After an agent's first pass."""
        known = {instance.uid for instance in ledger.instances()}
        for uid in self._host.running().keys() - known:
            self.broken("I3", f"machine {uid} runs and is not recorded")

    def opened(self, ledger: Ledger) -> None:
        """When a new agent has its database, and before it has written to that."""
        newest = ledger.reader.events(last=1)
        last = self._told
        if last is not None and [replace(one, id=last.id) for one in newest] != [last]:
            self.broken("I9", f"{last.reason} of {last.name} was told, and is not in the database")

    def database_lost(self) -> None:
        """Somebody took the database away: what was told before is gone with it."""
        self._told = None

    def jobs(self, ledger: Ledger) -> None:
        """How runs ended, and how often their scripts were started."""
        for run in ledger.runs():
            works = self._begun.get(run.id, [])
            retries = JobSpec.from_canonical(run.spec).retries
            if len(works) > 1 + retries.interrupted + retries.script:
                self.broken("I7", f"the script of {run.name} was started {len(works)} times")
            if run.phase is RunPhase.SUCCEEDED and not any(map(_ended_well, works)):
                self.broken("I7", f"run {run.number} of {run.name} succeeded, and no script did")

    def logs(self, runs: Path) -> None:
        """That no secret is in what is kept of runs' output."""
        for log in runs.glob("*/log*"):
            if CANARY.encode() in log.read_bytes():
                self.broken("I10", f"{log.name} of run {log.parent.name} has a secret in it")

    def at_rest(self, ledger: Ledger, desired: Desired) -> list[str]:
        """What is not yet as it is wanted, in words."""
        found = list(self._vms(ledger, desired))
        known = {instance.uid for instance in ledger.instances()}
        found += [f"machine {uid} belongs to nobody" for uid in self._host.guests.keys() - known]
        found += [
            f"{one.name}: a machine of a job is left"
            for one in ledger.instances()
            if one.kind == "job"
        ]
        found += list(_unended(ledger.runs(), desired))
        leases = (name for name, one in ledger.names().items() if one.ssh_port is not None)
        wanted = desired.vms.keys() | desired.jobs.keys() | _protected(ledger)
        found += [f"{name} has a lease" for name in leases if name not in wanted]
        found += [f"{step.name}: a step is open" for step in ledger.reader.steps(open_only=True)]
        return found

    def _vms(self, ledger: Ledger, desired: Desired) -> Iterator[str]:
        by_name: dict[Name, list[Instance]] = {}
        for instance in ledger.instances():
            if instance.kind == "vm":
                by_name.setdefault(instance.name, []).append(instance)
        for name in by_name.keys() - desired.vms.keys() - _protected(ledger):
            yield f"{name} is not wanted and there"
        for name, wanted in desired.vms.items():
            own = by_name.get(name, [])
            if wanted.spec.power == "stopped":
                if any(self._host.guests[one.uid].process for one in own):
                    yield f"{name} is to be stopped and runs"
            elif len(own) != 1:
                yield f"{name} has {len(own)} instances"
            else:
                yield from (f"{name} {why}" for why in self._differs(own[0], wanted.spec))

    def _differs(self, instance: Instance, spec: VmSpec) -> Iterator[str]:
        guest = self._host.guests.get(instance.uid)
        if guest is None or guest.process is None:
            yield "has no process"
            return
        if guest.process != instance.process:
            yield "runs as another process than is recorded"
        if guest.state is not RunState.RUNNING or instance.phase is not Phase.RUNNING:
            yield f"is {guest.state}, and recorded as {instance.phase}"
        if instance.vm_spec != spec:
            yield "has another spec than is wanted"
        if instance.ready_at is None:
            yield f"is not ready: {instance.unhealthy}"
        if set(spec.ports) - set(guest.forwards):
            yield "lacks a forward"
        if spec.disk is not None and guest.disk < spec.disk:
            yield "has too small a disk"


def _recorded(guest: Guest) -> Instance | None:
    try:
        return instance_of(json.loads(guest.machine.record))
    except (ValueError, KeyError):
        return None


def _protected(ledger: Ledger) -> set[Name]:
    """The names of machines that nothing may end, whatever became of their documents."""
    return {one.name for one in ledger.instances() if one.kind == "vm" and one.vm_spec.protect}


def _asks(wish: Desired, spec: VmSpec, power: bool) -> bool:
    """Whether the documents ask for the end of a machine of `spec`, or (`power`) for its stop."""
    if wish.unproven is not None or any(one.name == spec.name for one in wish.problems):
        return False
    wanted = wish.vms.get(spec.name)
    if wanted is None:
        return True
    if wanted.spec.suspend:
        return False
    if power and wanted.spec.power == "stopped":
        return True
    forcing = [one for one in changes(spec, wanted.spec) if one.effect is Effect.REPLACE]
    return bool(forcing) and not (spec.protect and wanted.spec.protect)


def _ended_well(work: Work) -> bool:
    return work.scripted.exit_code == 0


def _unended(runs: list[Run], desired: Desired) -> Iterator[str]:
    latest: dict[tuple[Name, str], Run] = {(run.name, run.spec_digest): run for run in runs}
    for name, wanted in desired.jobs.items():
        run = latest.get((name, wanted.spec.digest))
        if run is None:
            yield f"{name} was never run"
        elif not run.phase.ended:
            yield f"{name} is {run.phase}: {run.message}"
    for name, count in Counter(run.name for run in runs if not run.phase.ended).items():
        if name not in desired.jobs or count > 1:
            yield f"{name} has {count} runs that have not ended"
