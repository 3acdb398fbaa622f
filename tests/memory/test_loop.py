"""The whole agent on a host in memory: what it makes of documents, machines and their mishaps."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import agent.loop
from agent.errors import ImageUnavailable, StartFailed, StopFailed
from agent.hypervisor.memory.world import Guest
from agent.wake import LONGEST_BURST
from state import database
from state.ids import Digest, Name, Uid
from state.lifecycle import Phase
from state.observed import Listener, RunState, image_key
from state.spec.resolved import Forward, VmSpec
from tests.builders import IMAGE, broken, desired, vm
from tests.memory.world import Lab

STRANGER = Uid("00000000-0000-4000-8000-000000000000")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


async def test_a_document_becomes_a_running_machine_that_is_ready(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        instance = lab.instance()
        assert lab.uids() == {"web": instance.uid}
        assert instance.phase is Phase.RUNNING
        assert instance.ready_at is not None
        assert lab.host.guests[instance.uid].state is RunState.RUNNING


async def test_a_changed_memory_replaces_under_the_same_ssh_port(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.instance()
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.settled()
        after = lab.instance()
        assert after.uid != before.uid
        assert after.generation == before.generation + 1
        assert after.ssh_port == before.ssh_port
        assert list(lab.host.guests) == [after.uid]
        assert lab.host.guests[after.uid].machine.memory == 1 << 30


async def test_a_replacement_is_prepared_before_the_old_machine_is_stopped(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.instance()
        lab.host.failures["prepare"] = [StartFailed("the disk is full")]
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: not lab.host.failures["prepare"], "the failure was met")
        assert lab.uids() == {"web": before.uid}
        await lab.settled()
        assert lab.uids()[Name("web")] != before.uid


async def test_a_replacement_that_cannot_be_started_costs_nothing(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.uids()
        lab.host.failures["spawn"] = [StartFailed("cannot set up guest memory")]
        lab.edit(desired(vm("web", memory=1 << 42)))
        await lab.until(lambda: lab.host.calls["spawn"] == 2, "it was tried")
        await lab.until(lambda: _reason(lab, "web") == "BackOff", "the reason is told")
        assert lab.uids() == before
        old = lab.host.guests[before[vm().name]]
        lab.host.kill(old.machine.uid)
        await lab.until(lambda: old.boots == 2, "what serves meanwhile is kept alive")


async def test_a_replacement_is_inert_and_has_only_new_ports_until_the_old_machine_is_gone(
    lab: Lab,
) -> None:
    ports, more = (Forward(8080, 80),), (Forward(8080, 80, "0.0.0.0"), Forward(8081, 81))
    lab.host.delays["stop"] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web", ports=ports)))
        await lab.settled()
        old = lab.instance().uid
        lab.edit(desired(vm("web", ports=more, memory=1 << 30)))
        await lab.until(lambda: lab.host.calls["stop"] == 1, "the old one is being stopped")
        [new] = lab.host.guests.keys() - {old}
        assert lab.host.guests[old].state is RunState.RUNNING
        assert lab.host.guests[new].state is RunState.INERT
        assert lab.host.guests[new].forwards == (Forward(8081, 81),)
    lab.host.delays.clear()
    async with lab.running():
        await lab.settled()
        assert lab.uids() == {"web": new}
        assert set(more) < set(lab.host.guests[new].forwards)


@pytest.mark.parametrize("operation", ["spawn", "stop", "discard", "set_forwards", "resume"])
async def test_a_replacement_that_was_cut_off_anywhere_is_brought_to_its_end(
    lab: Lab, operation: str
) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        old, asked = lab.instance(), lab.host.calls[operation]
    lab.host.delays[operation] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: lab.host.calls[operation] > asked, "it is in the midst of it")
    lab.host.delays.clear()
    async with lab.running():
        await lab.settled()
        new = lab.instance()
        assert (new.generation, new.ssh_port) == (2, old.ssh_port)
        assert lab.uids() == {"web": new.uid}
        assert lab.host.guests[new.uid].forwards == new.forwards == old.forwards
        assert lab.host.guests[new.uid].boots == 1


@pytest.mark.parametrize("operation", ["spawn", "stop", "set_forwards"])
async def test_a_replacement_that_never_ran_is_dropped_though_the_ledger_is_lost(
    lab: Lab, operation: str
) -> None:
    """Sabotage: take what is inert for one that has run. It then counts as the one that serves, and the old disk is
    removed for a machine that nobody has seen."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        old, asked = lab.instance().uid, lab.host.calls[operation]
    lab.host.delays[operation] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: lab.host.calls[operation] > asked, "it is in the midst of it")
    lab.host.delays.clear()
    lab.database.unlink()
    lab.edit(desired(vm("web")))
    async with lab.running():
        await lab.settled()
        assert lab.uids() == {"web": old}
        assert list(lab.host.guests) == [old]


@pytest.mark.parametrize("operation", ["prepare", "spawn", "describe", "resume"])
async def test_a_machine_whose_first_start_was_cut_off_runs_though_the_ledger_is_lost(
    lab: Lab, operation: str
) -> None:
    lab.host.delays[operation] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: lab.host.calls[operation] > 0, "it is in the midst of it")
    lab.host.delays.clear()
    lab.database.unlink()
    async with lab.running():
        await lab.settled()
        assert lab.instance().generation == 1
        assert lab.host.guests[lab.uids()[Name("web")]].boots == 1


async def test_a_replacement_that_was_let_go_is_never_dropped_though_the_ledger_is_lost(
    lab: Lab,
) -> None:
    """Sabotage: tell in its own file that it runs only afterwards. What its guest wrote is then thrown away."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
    lab.host.delays["discard"] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: lab.host.calls["discard"] > 0, "the new one runs")
        [new] = lab.uids().values()
    lab.database.unlink()
    async with lab.killed():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: len(lab.host.guests) == 3, "it is replaced like any other")
        assert new in lab.host.guests


async def test_files_of_the_old_machine_that_cannot_be_removed_keep_no_replacement_waiting(
    lab: Lab,
) -> None:
    """Sabotage: remove them before the new one runs. What is half removed is then started again meanwhile, with an
    empty disk."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        old = lab.host.guests[lab.instance().uid]
        lab.host.failures["discard"] = [StopFailed("they are in use"), StopFailed("still")]
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: len(lab.host.failures["discard"]) == 1, "it failed")
        new = lab.instance().uid
        assert lab.uids() == {"web": new}
        await lab.settled()
        assert lab.uids() == {"web": new}
        assert list(lab.host.guests) == [new]
        assert old.boots == 1


async def test_two_machines_can_exchange_their_ports(lab: Lab) -> None:
    one, other = (Forward(8080, 80),), (Forward(8081, 80),)
    async with lab.running():
        lab.edit(desired(vm("web", ports=one), vm("db", ports=other)))
        await lab.settled()
        before = lab.uids()
        lab.edit(desired(vm("web", ports=other), vm("db", ports=one)))
        await lab.settled()
        assert lab.uids() == before
        assert set(other) < set(lab.host.guests[before[Name("web")]].forwards)
        assert set(one) < set(lab.host.guests[before[Name("db")]].forwards)


async def test_replacements_can_exchange_their_ports(lab: Lab) -> None:
    """Sabotage: let each keep its ports until the other has let go of its own. Both then wait for ever."""
    one, two, three = ((Forward(port, 80),) for port in (8080, 8081, 8082))
    async with lab.running():
        lab.edit(desired(vm("a", ports=one), vm("b", ports=two), vm("c", ports=three)))
        await lab.settled()
        before = lab.uids()
        lab.host.failures["spawn"] = [StartFailed("not just now")]
        lab.edit(
            desired(
                vm("a", ports=two, memory=1 << 30),
                vm("b", ports=three, memory=1 << 30),
                vm("c", ports=one, memory=1 << 30),
            )
        )
        await lab.until(lambda: not lab.host.failures["spawn"], "one of them cannot be made")
        assert set(lab.uids()) == set(before)
        await lab.settled()
        after = lab.uids()
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        for name, ports in (("a", two), ("b", three), ("c", one)):
            assert set(ports) < set(lab.host.guests[after[Name(name)]].forwards)


async def test_changed_labels_do_not_touch_the_process(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.host.running()
        lab.edit(desired(vm("web", labels=(("tier", "edge"),))))
        await lab.settled()
        assert lab.host.running() == before
        assert lab.instance().spec_digest == vm("web", labels=(("tier", "edge"),)).digest


async def test_changed_ports_move_on_the_running_machine(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.host.running()
        lab.edit(desired(vm("web", ports=(Forward(8080, 80),))))
        await lab.settled()
        assert lab.host.running() == before
        assert Forward(8080, 80) in lab.host.guests[lab.instance().uid].forwards


async def test_deletion_destroys_and_forgets(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        lab.edit(desired(vm("db")))
        await lab.settled()
        assert set(lab.uids()) == {"db"}
        assert lab.ledger is not None
        leased = {name for name, record in lab.ledger.names().items() if record.ssh_port}
        assert leased == {"db"}


async def test_a_name_that_comes_back_is_not_taken_for_what_it_was(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        before = lab.instance()
        lab.edit(desired(vm("db")))
        await lab.settled()
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        assert lab.instance().generation == before.generation + 1
        assert lab.instance().uid != before.uid


async def test_a_broken_document_holds_its_own_machine_and_no_other(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        before = lab.uids()
        lab.edit(desired(vm("db", memory=1 << 30), problems=[broken("web")]))
        await lab.settled()
        assert lab.uids()[Name("web")] == before[Name("web")]
        assert lab.uids()[Name("db")] != before[Name("db")]


async def test_a_held_machine_that_dies_comes_back_as_it_was(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.edit(desired(problems=[broken("web")]))
        await lab.settled()
        lab.host.kill(uid)
        await lab.until(lambda: lab.uids().get(vm().name) == uid, "it runs again")


async def test_an_emptied_tree_destroys_nothing(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.uids()
        lab.edit(desired(unproven="/desired has no documents"))
        done = await lab.settled()
        assert lab.uids() == before
        assert [step.action for step in done.plan.steps] == ["hold"]


async def test_a_killed_machine_comes_back_from_its_own_disk(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.instance()
        lab.host.kill(before.uid)
        await lab.until(lambda: lab.instance().restarts == 1, "restarted")
        await lab.settled()
        assert lab.instance().uid == before.uid
        assert lab.host.guests[before.uid].boots == 2
        assert lab.host.calls["prepare"] == 2


async def test_a_new_agent_adopts_without_a_touch(lab: Lab) -> None:
    async with lab.killed():
        lab.edit(desired(vm("web")))
        await lab.settled()
    before, calls = lab.host.running(), lab.host.calls.copy()
    async with lab.running():
        await lab.settled()
        assert lab.host.running() == before
        assert lab.host.calls == calls


async def test_a_machine_that_was_started_and_not_recorded_is_used_not_doubled(lab: Lab) -> None:
    lab.host.delays["resume"] = 3600
    async with lab.killed():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: lab.host.calls["resume"] == 1, "its start was under way")
    before = lab.host.running()
    lab.host.delays.clear()
    async with lab.running():
        await lab.settled()
        assert lab.host.running() == before


async def test_after_a_reboot_machines_start_from_their_own_disks_on_the_same_ports(
    lab: Lab,
) -> None:
    async with lab.killed():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        before = {name: lab.instance(name) for name in ("web", "db")}
    lab.host.reboot()
    async with lab.running():
        await lab.settled()
        for name, old in before.items():
            assert lab.instance(name).uid == old.uid
            assert lab.instance(name).ssh_port == old.ssh_port
        assert set(lab.uids()) == {"web", "db"}


async def test_a_frozen_machine_is_unresponsive_and_delays_no_other(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.freeze(uid)
        lab.edit(desired(vm("web"), vm("db")))
        await lab.until(lambda: "db" in lab.uids(), "the other was created")
        await lab.until(lambda: _reason(lab, "web") == "Unresponsive", "said so")
        assert lab.uids()[vm("web").name] == uid
        lab.host.freeze(uid, frozen=False)
        await lab.settled()
        assert lab.host.guests[uid].boots == 1


async def test_power_is_live(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.edit(desired(vm("web", power="paused")))
        await lab.settled()
        assert lab.host.guests[uid].state is RunState.PAUSED
        lab.edit(desired(vm("web", power="stopped")))
        await lab.settled()
        assert lab.uids() == {}
        assert lab.instance().phase is Phase.STOPPED
        lab.edit(desired(vm("web", power="running")))
        await lab.settled()
        assert lab.uids() == {"web": uid}


@pytest.mark.parametrize(
    ("restart", "comes_back"), [("always", True), ("on_failure", False), ("never", False)]
)
async def test_a_guest_that_powers_itself_off_is_handled_as_restart_says(
    lab: Lab, restart: str, comes_back: bool
) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", restart=restart)))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.guest(uid, RunState.OFF)
        await lab.settled()
        assert (uid in lab.host.running()) is comes_back
        assert lab.host.guests[uid].boots == (2 if comes_back else 1)


@pytest.mark.parametrize(
    ("state", "restart", "comes_back"),
    [
        (RunState.OFF, "always", True),
        (RunState.OFF, "on_failure", False),
        (RunState.PANICKED, "on_failure", True),
        (RunState.PANICKED, "never", False),
    ],
)
@pytest.mark.parametrize("lives", [True, False], ids=["alive", "gone"])
async def test_one_that_went_down_by_itself_stays_down_though_its_agent_died_meanwhile(
    lab: Lab, state: RunState, restart: str, comes_back: bool, lives: bool
) -> None:
    """Sabotage: forget why it is being ended. The next agent then starts what was to stay down."""
    async with lab.running():
        lab.edit(desired(vm("web", restart=restart)))
        await lab.settled()
        uid = lab.instance().uid
    lab.host.delays["stop"] = 3600
    async with lab.killed():
        lab.host.guest(uid, state)
        await lab.until(lambda: lab.host.calls["stop"] == 1, "it is being ended")
    lab.host.delays.clear()
    if not lives:
        lab.host.kill(uid)
    async with lab.running():
        await lab.until(lambda: _reason(lab, "web") in ("Ready", "GuestPoweredOff", "Panicked"), "")
        assert (uid in lab.host.running()) is comes_back
        assert lab.host.guests[uid].boots == (2 if comes_back else 1)


@pytest.mark.parametrize(
    ("restart", "comes_back"), [("always", True), ("on_failure", True), ("never", False)]
)
async def test_a_killed_process_is_handled_as_restart_says(
    lab: Lab, restart: str, comes_back: bool
) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", restart=restart)))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.kill(uid)
        await lab.settled()
        assert (uid in lab.host.running()) is comes_back


async def test_a_crash_loop_waits_longer_each_time_and_says_so(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.kill(uid)
        await lab.until(lambda: lab.instance().restarts == 1 and "web" in lab.uids(), "first")
        lab.host.kill(uid)
        await lab.until(lambda: _reason(lab, "web") == "BackOff", "waits")
        assert lab.uids() == {}


async def test_a_failed_start_is_tried_again_and_its_words_are_shown(lab: Lab) -> None:
    lab.host.failures["spawn"] = [StartFailed("starting web: no such machine type")]
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: _reason(lab, "web") == "BackOff", "waits")
        assert "no such machine type" in _message(lab, "web")
        await lab.settled()
        assert len(lab.uids()) == 1


async def test_a_slow_stop_delays_no_other_name(lab: Lab) -> None:
    async with lab.killed():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        lab.host.delays["stop"] = 3600
        lab.edit(desired(vm("db"), vm("new")))
        await lab.until(lambda: "new" in lab.uids(), "the new one was made")
        assert "web" in lab.uids()


async def test_a_suspended_name_stays_so_when_its_document_breaks(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", suspend=True)))
        await lab.settled()
        assert lab.uids() == {}
        lab.edit(desired(vm("web")))
        await lab.settled()
        lab.edit(desired(vm("web", suspend=True)))
        await lab.settled()
        lab.edit(desired(problems=[broken("web")]))
        lab.host.kill(lab.instance().uid)
        await lab.settled()
        assert lab.uids() == {}


async def test_a_taken_port_is_a_reason_that_names_its_owner(lab: Lab) -> None:
    lab.host.listening.append(Listener("0.0.0.0", 8080, 77, "nginx"))
    async with lab.running():
        lab.edit(desired(vm("web", ports=(Forward(8080, 80),))))
        await lab.until(lambda: _reason(lab, "web") == "PortTaken", "waits")
        assert "nginx (pid 77)" in _message(lab, "web")
        lab.host.listening.clear()
        await lab.settled()
        assert len(lab.uids()) == 1


async def test_an_image_whose_content_changed_replaces_its_machines(lab: Lab) -> None:
    image = replace(IMAGE, digest=None)
    async with lab.running():
        lab.edit(desired(vm("web", image=image)))
        await lab.settled()
        before = lab.instance()
        lab.host.contents[image.source] = Digest("sha256:" + "2" * 64)
        await lab.settled()
        assert lab.instance().uid != before.uid


async def test_an_image_of_several_labels_that_fails_has_failed_once(lab: Lab) -> None:
    """Sabotage: count what each label is told. Ten labels then wait for ten minutes after one failure."""
    labels = [replace(IMAGE, label=f"label-{n}") for n in range(10)]
    lab.host.failures["fetch"] = [ImageUnavailable("fetching it: the server says 404")]
    async with lab.running():
        lab.edit(desired(*(vm(f"vm-{image.label}", image=image) for image in labels)))
        await lab.until(lambda: _reason(lab, "vm-label-9") == "ImageUnavailable", "it failed")
        retries = [done.observed.retries.get(image_key(IMAGE)) for done in lab.passes]
        assert next(retry.failures for retry in retries if retry is not None) == 1


async def test_an_agent_that_is_told_to_stop_does_not_wait_for_a_fetch(lab: Lab) -> None:
    """Sabotage: fetch among the steps. A download then keeps the agent from leaving for as long as it takes."""
    lab.host.delays["fetch"] = 3600
    async with asyncio.timeout(10):
        async with lab.running():
            lab.edit(desired(vm("web")))
            await lab.until(lambda: lab.host.calls["fetch"] == 1, "the image is on its way")
    lab.host.delays.clear()
    async with lab.running():
        await lab.settled()
        assert set(lab.uids()) == {"web"}


@pytest.mark.parametrize("operation", ["fetch", "prepare", "spawn"])
async def test_a_document_that_changes_while_its_machine_is_made_ends_in_what_it_says_last(
    lab: Lab, operation: str
) -> None:
    """Sabotage: let an edit begin a step of a name that has one under way."""
    lab.host.delays[operation] = 0.05
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: lab.host.calls[operation] == 1, "it is being made")
        lab.edit(desired(vm("web", memory=3 << 30)))
        await lab.settled()
        assert list(lab.uids().values()) == [lab.instance().uid]
        assert VmSpec.from_canonical(lab.instance().spec).memory == 3 << 30
        assert len(lab.host.guests) == 1


async def test_a_source_that_does_not_answer_keeps_no_agent_from_leaving(lab: Lab) -> None:
    """Sabotage: wait for the source's answer before looking at the wish to leave."""
    answers = threading.Event()
    async with asyncio.timeout(10):
        async with lab.running():
            lab.edit(desired(vm("web")))
            await lab.settled()
            lab.source.answers = answers.wait
            lab.look()
            await lab.until(lambda: lab.source.asked, "it was asked")
            lab.host.kill(lab.instance().uid)
    answers.set()


async def test_a_second_pass_over_an_unchanged_world_writes_nothing(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(*(vm(f"vm-{n}") for n in range(20))))
        await lab.settled()
        assert lab.ledger is not None
        before, calls = lab.ledger._connection.total_changes, lab.host.calls.copy()
        await lab.settled()
        await lab.settled()
        assert lab.ledger._connection.total_changes == before
        assert lab.host.calls == calls


async def test_a_renamed_file_changes_nothing_but_where_the_document_stands(lab: Lab) -> None:
    from state.desired import Desired
    from tests.builders import DIRECTORY, wanted

    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.host.running()
        lab.edit(Desired(DIRECTORY, wanted(vm("web"), file="moved/web.yaml")))
        await lab.settled()
        assert lab.host.running() == before
        assert lab.instance().source.file == "moved/web.yaml"


async def test_a_protected_machine_is_neither_replaced_nor_destroyed(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", protect=True), vm("db")))
        await lab.settled()
        before = lab.uids()
        lab.edit(desired(vm("web", protect=True, memory=1 << 30), vm("db")))
        await lab.settled()
        assert lab.uids() == before
        lab.edit(desired(vm("db")))
        await lab.settled()
        assert lab.uids() == before


async def test_a_suspended_name_is_left_alone(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.edit(desired(vm("web", suspend=True, memory=1 << 30)))
        await lab.settled()
        lab.host.kill(uid)
        await lab.settled()
        assert lab.uids() == {}


def _reason(lab: Lab, name: str) -> str:
    steps = lab.passes[-1].plan.steps if lab.passes else ()
    return next((getattr(step, "reason", "") for step in steps if step.name == name), "")


def _message(lab: Lab, name: str) -> str:
    return next(step.because for step in lab.passes[-1].plan.steps if step.name == name)


async def test_a_lost_ledger_is_rebuilt_from_the_machines_and_no_machine_is_touched(
    lab: Lab,
) -> None:
    async with lab.killed():
        lab.edit(desired(vm("web"), vm("db")))
        await lab.settled()
        lab.edit(desired(vm("web", protect=True), vm("db")))
        await lab.settled()
        stopped = lab.instance("db").uid
    lab.host.kill(stopped)
    lab.database.unlink()
    before = lab.host.running()
    lab.edit(desired(vm("db")))
    async with lab.running():
        await lab.settled()
        assert lab.host.running().items() >= before.items(), "also what was protected while it ran"
        assert lab.uids()[Name("db")] == stopped
        assert lab.host.guests[stopped].boots == 2


async def test_a_guest_that_powered_itself_off_stays_so_though_the_ledger_is_lost(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(vm("web", restart="on_failure")))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.guest(uid, RunState.OFF)
        await lab.settled()
    lab.database.unlink()
    async with lab.running():
        await lab.settled()
        assert _reason(lab, "web") == "GuestPoweredOff"
        assert lab.host.guests[uid].boots == 1


async def test_a_held_name_that_never_ran_is_started_by_what_it_was_given(lab: Lab) -> None:
    lab.host.failures["spawn"] = [StartFailed("starting web: not just now")]
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.until(lambda: _reason(lab, "web") == "BackOff", "its start failed")
        lab.edit(desired(problems=[broken("web")]))
        await lab.until(lambda: "web" in lab.uids(), "it is started nevertheless")
        assert lab.host.calls["fetch"] == 1


@pytest.mark.parametrize(
    "operation", ["prepare", "spawn", "stop", "set_forwards", "describe", "resume", "discard"]
)
async def test_a_database_that_another_program_holds_delays_a_step_and_ends_no_agent(
    lab: Lab, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: write without having asked whether the database is free. The loop waits with it, and then ends."""
    monkeypatch.setattr(database, "BUSY", 0.0)
    tries: list[str] = []
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.host.calls[operation]
        lab.host.delays[operation] = 0.05
        lab.edit(desired(vm("web", memory=1 << 30)))
        await lab.until(lambda: lab.host.calls[operation] > before, "it is in the midst of it")
        with closing(sqlite3.connect(lab.database)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert lab.ledger is not None
            lab.ledger._connection.set_trace_callback(tries.append)
            await lab.until(lambda: len(tries) > 20, "it tries again and again")
        await lab.settled()
        assert (lab.instance().generation, list(lab.host.guests)) == (2, list(lab.uids().values()))


async def test_a_guest_that_found_no_room_goes_on_when_there_is_some(lab: Lab) -> None:
    """Sabotage: let it go on at once, whatever is free."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        lab.host.free_disk = 0
        uid, process = lab.instance().uid, lab.instance().process
        lab.host.guest(uid, RunState.IO_ERROR)
        await lab.until(lambda: _reason(lab, "web") == "IOError", "it is told")
        resumed = lab.host.calls["resume"]
        for _ in range(3):
            lab.passes.clear()
            lab.look()
            await lab.until(lambda: bool(lab.passes), "it looks again")
        assert lab.host.calls["resume"] == resumed
        lab.host.free_disk = 1 << 40
        lab.look()
        await lab.settled()
        assert lab.host.guests[uid].state is RunState.RUNNING
        assert lab.instance().process == process
        lab.host.guest(uid, RunState.IO_ERROR)
        await lab.until(lambda: _reason(lab, "web") == "BackOff", "less and less often")


async def test_a_machine_whose_row_is_lost_while_the_agent_runs_is_taken_in(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: look for strangers at the start alone."""
    monkeypatch.setattr(agent.loop, "STRANGERS", 0.05)
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        before = lab.instance()
        assert lab.ledger is not None
        with lab.ledger.transaction() as change:
            change.remove_instance(before.uid)
        await lab.until(lambda: bool(lab.ledger and lab.ledger.instances()), "it is taken in")
        await lab.settled()
        assert (lab.instance().uid, lab.instance().process) == (before.uid, before.process)
        assert list(lab.host.guests) == [before.uid]


async def test_a_stranger_of_which_nothing_can_be_told_is_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.loop, "STRANGERS", 0.05)
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        known = lab.host.guests[lab.instance().uid]
        lab.host.guests[STRANGER] = Guest(replace(known.machine, uid=STRANGER, record="{}"), 1)
        lab.host.start(STRANGER)
        await lab.until(lambda: STRANGER not in lab.host.guests, "it is gone")
        assert lab.ledger is not None
        assert "Reaped" in [event.reason for event in lab.ledger.reader.events()]
        assert lab.instance().uid in lab.host.guests


async def test_a_world_in_which_nobody_waits_is_not_looked_at_after_every_step(lab: Lab) -> None:
    """Sabotage: look when anything has ended, however soon after the last look."""
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        assert lab.agent is not None
        begun = asyncio.get_running_loop().time()
        for number in range(3):
            before = len(lab.passes)
            lab.agent.wake.notify(f"step {number} ended", own=True)
            await lab.until(lambda n=before: len(lab.passes) > n, "it was looked at")  # type: ignore[misc]
        assert asyncio.get_running_loop().time() - begun > 2 * LONGEST_BURST
