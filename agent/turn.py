"""What all parts of one pass share: what it decides from, and what it has given away so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.births import Births
from agent.fetches import Fetches
from agent.leases import Leases
from agent.policy import Policy
from state.clock import Moment
from state.desired import Desired
from state.ids import Name
from state.observed import Observed, Seen


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass. `vms` are the instances of each vm's name, oldest generation first; `leases`, `births` and `fetches`
    remember what each part of the pass was given."""

    desired: Desired
    observed: Observed
    policy: Policy
    now: Moment
    vms: Mapping[Name, list[Seen]]
    leases: Leases
    births: Births
    fetches: Fetches

    @classmethod
    def of(cls, desired: Desired, observed: Observed, policy: Policy, now: Moment) -> Turn:
        """One in which nothing was given away yet."""
        leases = Leases(desired, observed, policy)
        births = Births(observed, policy, leases)
        vms = observed.by_name("vm")
        return cls(desired, observed, policy, now, vms, leases, births, Fetches(observed, now))
