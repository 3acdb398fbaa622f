"""What a new agent makes of the machines that it finds: none is touched that can be told, and none is taken twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StopFailed
from agent.hypervisor.api import Found, Machine
from agent.hypervisor.memory import MemoryHost
from agent.recover import recover, take_in_strangers
from state.clock import Moment
from state.history import StepRecord
from state.ids import Name, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import Instance, NameRecord
from state.records import instance_row
from tests.builders import BASE, instance, process, running, vm

WEB, DB = Name("web"), Name("db")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state.db")) as opened:
        yield opened


@pytest.fixture
def host() -> MemoryHost:
    return MemoryHost(boot_id="boot-1")


async def there(
    host: MemoryHost, one: Instance, *, alive: bool = True, record: str | None = None
) -> Process | None:
    """Let the host have the files of a machine, and its process."""
    hypervisor = host.backend().hypervisor
    told = json.dumps(instance_row(one, qmp="")) if record is None else record
    machine = Machine(
        uid=one.uid, name=one.name, generation=one.generation, base=BASE, cpus=1,
        memory=512 << 20, disk=None, accelerator="tcg", record=told,
    )  # fmt: skip
    await hypervisor.prepare(machine)
    return await hypervisor.spawn(machine) if alive else None


def recorded(ledger: Ledger, *instances: Instance) -> None:
    with ledger.transaction() as change:
        for one in instances:
            change.put_instance(one)
            change.put_name(NameRecord(one.name, one.generation, one.ssh_port))


async def recovered(ledger: Ledger, host: MemoryHost) -> list[tuple[str, Name | None]]:
    """What a new agent told of; seen twice over, it tells and does nothing more."""

    def clock() -> Moment:
        return Moment(5.0, 5.0, host.boot_id)

    await recover(ledger, host.backend().hypervisor, clock, [])
    told = [(one.reason, one.name) for one in ledger.reader.events()]
    before = ledger._connection.total_changes
    await recover(ledger, host.backend().hypervisor, clock, [])
    assert ledger._connection.total_changes == before
    return told


async def test_where_everything_is_recorded_nothing_is_written(
    ledger: Ledger, host: MemoryHost
) -> None:
    alive = await there(host, running())
    recorded(ledger, running(process=alive), running(vm("db"), ssh_port=22001, process=process(1)))
    before = ledger._connection.total_changes
    assert await recovered(ledger, host) == []
    assert ledger._connection.total_changes == before


async def test_a_generation_that_another_instance_has_is_left_alone_and_told(
    ledger: Ledger, host: MemoryHost
) -> None:
    """Sabotage: write its row all the same. Two rows of one generation then keep every agent from starting."""
    recorded(ledger, running(process=process(1)))
    stranger = replace(running(), uid=Uid("00000000-0000-4000-8000-000000000000"))
    alive = await there(host, stranger)

    def clock() -> Moment:
        return Moment(5.0, 5.0, host.boot_id)

    await recover(ledger, host.backend().hypervisor, clock, [])
    assert {one.reason for one in ledger.reader.events()} == {"RecoverFailed"}
    assert host.running() == {stranger.uid: alive}
    assert [one.uid for one in ledger.instances()] == [running().uid]


async def test_what_a_file_says_without_a_sound_spec_is_told_of_nobody(
    ledger: Ledger, host: MemoryHost
) -> None:
    for spec in ("", "null", "[]", "{}", '{"name": 3}'):
        await there(host, replace(running(), spec=spec), alive=False)
        assert await recovered(ledger, host) == []


async def test_steps_of_an_agent_that_died_are_interrupted(
    ledger: Ledger, host: MemoryHost
) -> None:
    with ledger.transaction() as change:
        change.begin_step(StepRecord(0, "p-1", "create", "vm", WEB, "x", 1.0))
    await recovered(ledger, host)
    [step] = ledger.reader.steps()
    assert (step.outcome, step.ended_at) == ("interrupted", 5.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Phase.PENDING, Phase.STARTING),
        (Phase.STOPPED, Phase.STARTING),
        (Phase.CRASHED, Phase.STARTING),
        (Phase.STARTING, Phase.STARTING),
        (Phase.RUNNING, Phase.RUNNING),
        (Phase.STOPPING, Phase.STOPPING),
    ],
)
async def test_a_process_that_was_started_and_not_recorded_is_recorded(
    ledger: Ledger, host: MemoryHost, before: Phase, after: Phase
) -> None:
    """Sabotage: leave a machine stopped whose process lives. Another is then started beside it."""
    recorded(ledger, instance(phase=before))
    alive = await there(host, instance())
    assert await recovered(ledger, host) == [("Found", WEB)]
    assert ledger.instances() == [instance(phase=after, process=alive)]


async def test_another_process_with_the_mark_of_one_that_lives_does_not_take_its_place(
    ledger: Ledger, host: MemoryHost
) -> None:
    """Sabotage: record whatever was found last. The real one is then nobody's."""
    alive = await there(host, instance())
    assert alive is not None
    recorded(ledger, running(process=alive))
    hypervisor = host.backend().hypervisor
    double = replace(alive, pid=alive.pid + 1)

    class Doubled(type(hypervisor)):  # type: ignore[misc]
        def scan(self) -> list[Found]:
            return [*super().scan(), Found(instance().uid, double, WEB, 1)]

    def clock() -> Moment:
        return Moment(5.0, 5.0, host.boot_id)

    doubled, told = Doubled(host), set[Process]()
    for _ in range(2):
        await take_in_strangers(ledger, doubled, clock, told=told)
    assert ledger.instances() == [running(process=alive)]
    [event] = ledger.reader.events()
    assert (event.reason, event.name) == ("Double", WEB)
    assert (
        f"pid {double.pid} bears the mark of web, whose process is pid {alive.pid}" in event.message
    )


@pytest.mark.parametrize(
    ("started_at", "phase"), [(1_700_000_990.0, Phase.RUNNING), (None, Phase.STARTING)]
)
async def test_a_living_machine_whose_row_is_lost_is_taken_in_untouched(
    ledger: Ledger, host: MemoryHost, started_at: float | None, phase: Phase
) -> None:
    """Sabotage: take one that was never let go for one that has run. It then counts as the one that serves."""
    lost = instance(generation=3, ssh_port=22007, run_as=61000, started_at=started_at)
    alive = await there(host, lost)
    calls = host.calls.copy()
    assert await recovered(ledger, host) == [("Recovered", WEB)]
    assert ledger.instances() == [replace(lost, phase=phase, process=alive)]
    assert ledger.names() == {WEB: NameRecord(WEB, 3, 22007)}
    assert host.calls == calls


async def test_a_machine_that_never_ran_whose_row_is_lost_is_taken_in_as_it_was(
    ledger: Ledger, host: MemoryHost
) -> None:
    await there(host, instance(), alive=False)
    assert await recovered(ledger, host) == [("Recovered", WEB)]
    assert ledger.instances() == [instance()]


async def test_a_machine_without_a_process_whose_row_is_lost_is_taken_in_as_crashed(
    ledger: Ledger, host: MemoryHost
) -> None:
    lost = running(process=process(boot_id="boot-0"))
    await there(host, lost, alive=False)
    assert await recovered(ledger, host) == [("Recovered", WEB)]
    [found] = ledger.instances()
    assert (found.phase, found.cause, found.process) == (Phase.CRASHED, Cause.EXIT, None)
    assert (found.started_at, found.spec_digest) == (lost.started_at, lost.spec_digest)


async def test_both_generations_of_a_replacement_that_was_under_way_are_taken_in(
    ledger: Ledger, host: MemoryHost
) -> None:
    for generation in (2, 1):
        await there(host, instance(generation=generation), alive=generation == 1)
    await recovered(ledger, host)
    assert sorted(one.generation for one in ledger.instances()) == [1, 2]
    assert ledger.name(WEB).generation == 2


@pytest.mark.parametrize(
    "record",
    ["", "null", "[]", '"text"', "{}", "not json", '{"uid": 1}',
     json.dumps(instance_row(instance(vm("other")), qmp="")),
     json.dumps(instance_row(instance(), qmp="") | {"phase": "dreaming"}),
     json.dumps(instance_row(instance(), qmp="") | {"base": "{}"})],
    ids=["nothing", "null", "list", "text", "empty", "garbage", "no-fields", "another's",
         "later-phase", "no-base"],
)  # fmt: skip
async def test_a_process_of_which_nothing_can_be_told_is_ended_and_cleared_away(
    ledger: Ledger, host: MemoryHost, record: str
) -> None:
    await there(host, instance(), record=record)
    assert await recovered(ledger, host) == [("Reaped", None)]
    assert host.guests == {}
    assert ledger.instances() == []
    [told] = ledger.reader.events()
    assert told.message.endswith(": nothing tells what it is")
    assert told.uid == instance().uid


async def test_a_process_that_cannot_be_ended_is_told_and_the_others_are_seen_to(
    ledger: Ledger, host: MemoryHost
) -> None:
    host.failures["stop"] = [StopFailed("ending it: it is stuck")] * 2
    await there(host, instance(), record="null")
    await there(host, instance(vm("db")))

    def clock() -> Moment:
        return Moment(5.0, 5.0, host.boot_id)

    await recover(ledger, host.backend().hypervisor, clock, [])
    told = {one.reason: one.message for one in ledger.reader.events()}
    assert told["ReapFailed"] == "ending it: it is stuck"
    assert [one.name for one in ledger.instances()] == [DB]


async def test_files_of_which_nothing_can_be_told_are_left_alone(
    ledger: Ledger, host: MemoryHost
) -> None:
    await there(host, instance(), alive=False, record="null")
    assert await recovered(ledger, host) == []
    assert instance().uid in host.guests


# A database that was put back from a backup


async def test_a_port_that_a_backup_has_leased_to_another_stays_the_others(
    ledger: Ledger, host: MemoryHost
) -> None:
    """Sabotage: lease it to both. The rule of the table ends the agent before it has looked at anything."""
    recorded(ledger, running(vm("db"), ssh_port=22000))
    alive = await there(host, running(ssh_port=22000))
    assert await recovered(ledger, host) == [("Recovered", WEB)]
    assert ledger.name(DB).ssh_port == 22000
    assert ledger.name(WEB).ssh_port is None
    found = ledger.instance(running().uid)
    assert found is not None
    assert (found.ssh_port, found.process) == (22000, alive)


async def test_a_uid_of_the_host_that_a_backup_has_given_to_another_is_no_hindrance(
    ledger: Ledger, host: MemoryHost
) -> None:
    recorded(ledger, running(vm("db"), ssh_port=22001, run_as=61000))
    await there(host, running(run_as=61000))
    assert await recovered(ledger, host) == [("Recovered", WEB)]
    assert [one.run_as for one in ledger.instances()] == [61000, 61000]


async def test_a_name_that_counted_further_goes_on_from_there(
    ledger: Ledger, host: MemoryHost
) -> None:
    with ledger.transaction() as change:
        change.put_name(NameRecord(WEB, 9, 22005))
    await there(host, instance(generation=2, ssh_port=None))
    await recovered(ledger, host)
    assert ledger.name(WEB) == NameRecord(WEB, 9, 22005)
