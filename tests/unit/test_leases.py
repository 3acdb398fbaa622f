"""Ports and uids of the host: leased once, kept, never what another has, and refused with the owner's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from agent.leases import Leases, overlaps
from agent.policy import Policy
from state.desired import Desired
from state.ids import Name
from state.lifecycle import Phase
from state.observed import Given, Instance, Listener, NameRecord, Observed, Seen, Verdict
from state.spec.resolved import Forward, VmSpec
from tests.builders import DIRECTORY, STATE_ID, process, running, vm, wanted

WEB, DB = Name("web"), Name("db")
PORTS = range(22000, 22004)


def leases(
    *specs: VmSpec,
    names: Iterable[NameRecord] = (),
    instances: Iterable[Instance] = (),
    seen: Iterable[Seen] = (),
    listeners: Iterable[Listener] = (),
    run_as: range | None = None,
    first: int = PORTS.start,
    given: Mapping[Name, Given] | None = None,
) -> Leases:
    observed = Observed(
        instances=(*(Seen(one, Verdict.ALIVE) for one in instances), *seen),
        names={record.name: record for record in names},
        listeners=tuple(listeners),
        given=given or {},
    )
    return Leases(
        Desired(DIRECTORY, wanted(*specs)),
        observed,
        Policy(STATE_ID, "tcg", ssh_ports=PORTS, first_ssh_port=first, run_as=run_as),
    )


def taken(*seen: Seen) -> Leases:
    """Port 22003 is leased to web, and somebody else listens on it."""
    return leases(
        names=[NameRecord(WEB, 1, 22003)], listeners=[Listener("0.0.0.0", 22003)], seen=seen
    )


@pytest.mark.parametrize(
    "seen",
    [
        Seen(running(vm("web"), ssh_port=22003), Verdict.GONE),
        Seen(running(vm("web"), ssh_port=22003, started_at=None), Verdict.ALIVE),
        Seen(running(vm("web"), ssh_port=22003, started_at=None), Verdict.UNKNOWN),
    ],
    ids=["down", "inert", "unclear"],
)
def test_a_leased_port_is_kept_whatever_listens_on_it(seen: Seen) -> None:
    assert taken(seen).ssh_port(WEB) == 22003


def test_a_port_that_was_taken_before_its_first_use_is_leased_anew() -> None:
    """Sabotage: keep it. A VM would wait for the end of a stranger, for a port that nobody knows."""
    birth = {"phase": Phase.PENDING, "process": None, "started_at": None, "ssh_port": 22003}
    begun = running(vm("web"), forwards=(), **birth)
    for seen in ([], [Seen(begun, Verdict.GONE)]):
        given = taken(*seen)
        assert given.ssh_port(WEB) == given.ssh_port(WEB) == 22000
        assert given.ssh_port(DB) == 22001


def test_the_range_is_gone_round_from_where_the_policy_says() -> None:
    given = leases(first=22002)
    names = [Name(f"n{n}") for n in range(5)]
    assert [given.ssh_port(name) for name in names] == [22002, 22003, 22000, 22001, None]


def test_a_new_name_gets_the_lowest_port_that_nobody_has() -> None:
    given = leases(
        vm("api", ports=(Forward(22001, 80),)),
        names=[NameRecord(DB, 1, 22000)],
        listeners=[Listener("192.0.2.1", 22002)],
    )
    assert given.ssh_port(WEB) == 22003
    assert given.ssh_port(WEB) == 22003


def test_a_fixed_port_of_a_running_machine_is_nobodys_lease_though_its_document_is_gone() -> None:
    db = running(vm("db", ports=(Forward(22000, 5432),)), ssh_port=22001)
    assert leases(instances=[db]).ssh_port(WEB) == 22001


def test_two_new_names_get_two_ports_until_none_is_left() -> None:
    given = leases()
    assert [given.ssh_port(Name(f"n{n}")) for n in range(5)] == [*PORTS, None]
    assert given.ssh_port(Name("n0")) == 22000


def test_a_port_leased_in_this_pass_is_anothers_conflict() -> None:
    given = leases()
    given.ssh_port(DB)
    assert given.conflict(WEB, [Forward(22000, 80)], []) == "port 22000 is leased to db for SSH"
    assert given.conflict(DB, [Forward(22000, 22)], []) is None


def test_a_fixed_port_of_a_machine_is_leased_to_it_also_while_it_is_down() -> None:
    """Sabotage: ask the listeners alone. A start would then take the port of one that is only stopped."""
    db = running(vm("db", ports=(Forward(8080, 80),)), forwards=(Forward(8080, 80),))
    for verdict in (Verdict.ALIVE, Verdict.GONE):
        given = leases(seen=[Seen(db, verdict)])
        said = "port 8080 of 127.0.0.1 is leased to db"
        assert given.conflict(WEB, [Forward(8080, 80)], []) == said
        assert given.conflict(DB, [Forward(8080, 80)], []) is None
        assert given.conflict(WEB, [Forward(8080, 80, "127.0.0.2")], []) is None


def test_one_that_is_down_does_not_keep_a_port_that_its_document_gave_up() -> None:
    db = running(vm("db", ports=(Forward(8080, 80),)), forwards=(Forward(8080, 80),))
    given = leases(vm("db"), seen=[Seen(db, Verdict.GONE)])
    assert given.conflict(WEB, [Forward(8080, 80)], []) is None


def test_uids_of_the_host_are_given_once_and_never_anothers() -> None:
    given = leases(instances=[running(run_as=61000)], run_as=range(61000, 61003))
    assert [given.run_as() for _ in range(3)] == [61001, 61002, None]
    assert leases().run_as() is None


def test_a_taken_port_names_who_has_it() -> None:
    for listener, said in (
        (Listener("0.0.0.0", 8080, 77, "nginx"), "is taken by nginx (pid 77)"),
        (Listener("127.0.0.1", 8080), "is taken by another program"),
    ):
        clash = leases(listeners=[listener]).conflict(WEB, [Forward(8080, 80)], [])
        assert clash == f"port 8080 of {listener.address} {said}"


def test_another_address_or_another_port_is_no_conflict() -> None:
    given = leases(listeners=[Listener("192.0.2.1", 8080), Listener("127.0.0.1", 8081)])
    assert given.conflict(WEB, [Forward(8080, 80)], []) is None
    anywhere = Forward(8080, 80, "0.0.0.0")
    assert given.conflict(WEB, [anywhere], []) is not None


def test_what_a_name_listens_on_itself_does_not_stand_in_its_way() -> None:
    own = Seen(running(forwards=(Forward(8080, 80),)), Verdict.ALIVE)
    mine = Listener("127.0.0.1", 8080, process().pid, "qemu-system-x86")
    assert leases(listeners=[mine]).conflict(WEB, [Forward(8080, 80)], [own]) is None
    unseen = Listener("127.0.0.1", 8080)
    assert leases(listeners=[unseen]).conflict(WEB, [Forward(8080, 80)], [own]) is None


def test_another_program_on_a_port_that_a_name_had_is_a_conflict() -> None:
    """Sabotage: believe the recorded forwards though the listener's pid is told, and is another's."""
    own = Seen(running(forwards=(Forward(8080, 80),)), Verdict.ALIVE)
    taken = Listener("127.0.0.1", 8080, 77, "nginx")
    clash = leases(listeners=[taken]).conflict(WEB, [Forward(8080, 80)], [own])
    assert clash == "port 8080 of 127.0.0.1 is taken by nginx (pid 77)"


def test_what_bears_the_pid_of_a_process_that_is_gone_is_a_stranger() -> None:
    own = Seen(running(forwards=(Forward(8080, 80),)), Verdict.GONE)
    for stranger in (
        Listener("127.0.0.1", 8080, process().pid, "nginx"),
        Listener("127.0.0.1", 8080),
    ):
        clash = leases(listeners=[stranger]).conflict(WEB, [Forward(8080, 80)], [own])
        assert clash is not None


def test_addresses_overlap_when_they_agree_or_one_is_every_address() -> None:
    assert overlaps("127.0.0.1", "127.0.0.1")
    assert overlaps("0.0.0.0", "127.0.0.1")
    assert overlaps("127.0.0.1", "0.0.0.0")
    assert not overlaps("127.0.0.1", "127.0.0.2")


def test_what_a_step_under_way_was_given_is_given_to_nobody_else() -> None:
    """Sabotage: go by what is recorded alone. A step that is only just begun has recorded nothing."""
    forwards = (Forward(22000, 22), Forward(8080, 80))
    busy = leases(run_as=range(100, 102), given={DB: Given(forwards, 22000, 100)})
    assert busy.ssh_port(WEB) == 22001
    assert busy.run_as() == 101
    clash = busy.conflict(WEB, [Forward(8080, 80)], [])
    assert clash == "port 8080 of 127.0.0.1 is leased to db"
    assert busy.ssh_port(DB) == 22000
