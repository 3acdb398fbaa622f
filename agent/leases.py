"""Who gets which port and which uid of the host. Pure: the choice depends on the arguments alone, and it is made while
planning so that the plan can show it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property
from itertools import chain

from agent.policy import Policy
from state.desired import Desired
from state.ids import Name
from state.observed import Listener, Observed, Seen, Verdict
from state.spec.resolved import Forward, VmSpec

SSH_GUEST_PORT = 22
ANYWHERE = "0.0.0.0"  # noqa: S104 - compared with, never bound


def overlaps(one: str, other: str) -> bool:
    """Whether two IPv4 addresses to listen on exclude each other on one port."""
    return one == other or ANYWHERE in (one, other)


def excluded(forward: Forward, by: Iterable[Forward]) -> bool:
    """Whether one of the others keeps `forward` from being bound."""
    return any(one.host == forward.host and overlaps(one.address, forward.address) for one in by)


def forwards_of(spec: VmSpec, ssh_port: int | None) -> tuple[Forward, ...]:
    """Every forward of an instance: the SSH port's first."""
    return spec.ports if ssh_port is None else (_ssh(ssh_port), *spec.ports)


@cache
def _ssh(port: int) -> Forward:
    """Each is asked for again and again."""
    return Forward(port, SSH_GUEST_PORT)


class _Taken:
    """Who has which port and which uid as a pass begins; what is given away is taken from then on."""

    def __init__(self, desired: Desired, observed: Observed) -> None:
        self.leased = {
            record.ssh_port: name for name, record in observed.names.items() if record.ssh_port
        }
        self.leased |= {
            given.ssh_port: name for name, given in observed.given.items() if given.ssh_port
        }
        self.own_ports: dict[Name, int] = {name: port for port, name in self.leased.items()}
        self.run_as: set[int | None] = set()
        self.used: set[Name] = set()
        self.forwarded: dict[int, list[tuple[str, Name]]] = {}
        for seen in observed.instances:
            instance = seen.instance
            self.run_as.add(instance.run_as)
            if instance.started_at is not None or seen.verdict is not Verdict.GONE:
                self.used.add(instance.name)
            for forward in _kept(seen, desired):
                owner = (forward.address, instance.name)
                self.forwarded.setdefault(forward.host, []).append(owner)
        for name, given in observed.given.items():
            self.run_as.add(given.run_as)
            for forward in given.forwards:
                if forward.host != given.ssh_port:
                    self.forwarded.setdefault(forward.host, []).append((forward.address, name))
        self.wanted: dict[int, list[tuple[str, Name]]] = {}
        for vm in desired.vms.values():
            for port in vm.spec.ports:
                self.wanted.setdefault(port.host, []).append((port.address, vm.spec.name))
        self.fixed = self.wanted.keys() | self.forwarded.keys()
        self.listening: dict[int, list[Listener]] = {}
        for listener in observed.listeners:
            self.listening.setdefault(listener.port, []).append(listener)


class Leases:
    """The ports and uids of one pass: those that are taken, and those that this pass gives away."""

    def __init__(self, desired: Desired, observed: Observed, policy: Policy) -> None:
        self._desired, self._observed = desired, observed
        ports, first = policy.ssh_ports, policy.first_ssh_port
        at = ports.index(first) if first in ports else 0
        self._untried = chain(ports[at:], ports[:at])
        self._untried_uids = iter(policy.run_as or ())

    @cached_property
    def _taken(self) -> _Taken:
        """Found out when somebody asks: most passes give nothing away."""
        return _Taken(self._desired, self._observed)

    def kept(
        self, name: Name, has: Iterable[Forward], wanted: Iterable[Forward]
    ) -> tuple[Forward, ...]:
        """What `name` keeps of what it has while it cannot have what is wanted for it: all but what it is to give up
        and the document of another vm asks for."""
        wanted = tuple(wanted)
        return tuple(one for one in has if one in wanted or not self._asked_for(name, one))

    def _asked_for(self, name: Name, forward: Forward) -> bool:
        """Whether the document of another vm asks for what `name` has."""
        wanted = self._taken.wanted.get(forward.host, ())
        return any(o != name and overlaps(address, forward.address) for address, o in wanted)

    def ssh_port(self, name: Name) -> int | None:
        """The port that is leased to `name`, or the next free one, from now on leased to it; None when all are taken. A
        lease that somebody else's process has before its first use is given up: nobody knows the port yet."""
        taken = self._taken
        if (leased := taken.own_ports.get(name)) is not None:
            if name in taken.used or leased not in taken.listening:
                return leased
            del taken.leased[leased], taken.own_ports[name]
        for port in self._untried:
            if port in taken.leased or port in taken.fixed or port in taken.listening:
                continue
            taken.leased[port] = name
            taken.own_ports[name] = port
            return port
        return None

    def run_as(self) -> int | None:
        """A uid of the host that no other instance runs as; None where the agent is not root or none is free."""
        return next((uid for uid in self._untried_uids if uid not in self._taken.run_as), None)

    def conflict(self, name: Name, forwards: Iterable[Forward], own: Iterable[Seen]) -> str | None:
        """Why one of `forwards` cannot be bound for `name`, naming the owner; None when all can. What the `own`
        instances of the name listen on does not count: they are gone by then, or keep it. One whose process is gone
        listens on nothing, whatever bears its pid now."""
        living = [seen.instance for seen in own if seen.verdict is not Verdict.GONE]
        pids = {instance.process.pid for instance in living if instance.process}
        held = {(port.address, port.host) for instance in living for port in instance.forwards}
        for forward in forwards:
            holder = self._taken.leased.get(forward.host)
            if holder is not None and holder != name:
                return f"port {forward.host} is leased to {holder} for SSH"
            for address, owner in self._taken.forwarded.get(forward.host, ()):
                if owner != name and overlaps(address, forward.address):
                    return f"port {forward.host} of {address} is leased to {owner}"
            for listener in self._taken.listening.get(forward.host, ()):
                if not overlaps(listener.address, forward.address):
                    continue
                mine = listener.pid in pids or (
                    listener.pid is None and (forward.address, forward.host) in held
                )
                if not mine:
                    return (
                        f"port {forward.host} of {listener.address} is taken by {_named(listener)}"
                    )
        return None


def _kept(seen: Seen, desired: Desired) -> Iterable[Forward]:
    """The forwards beside SSH's that an instance has, also while it is down. One that is down and whose document has
    changed is started with those of its document, so that it does not keep what it is to give away."""
    wanted = desired.vms.get(seen.instance.name)
    if seen.verdict is Verdict.GONE and wanted is not None:
        return wanted.spec.ports
    return [one for one in seen.instance.forwards if one.host != seen.instance.ssh_port]


def _named(listener: Listener) -> str:
    return f"{listener.owner} (pid {listener.pid})" if listener.pid else listener.owner
