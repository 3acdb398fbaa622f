"""What one existing instance needs: each answer with the words that a person reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.backoff import failed
from agent.keepalive import LOOK_FOR_ROOM, ROOM_TO_WRITE, answer
from agent.leases import Leases, forwards_of
from agent.live import Question
from agent.policy import Policy
from agent.steps import Adopt, Crash, Keep, Power, Restart, Step, Unblock, Update, Wait
from state.clock import Moment
from state.desired import Desired, SourceRef
from state.ids import Digest
from state.lifecycle import Cause, Phase
from state.observed import (
    Exit,
    Instance,
    Listener,
    Observed,
    Retry,
    RunState,
    Seen,
    Verdict,
    View,
    vm_key,
)
from state.spec.resolved import Forward, HealthSpec, VmSpec
from tests.builders import DIRECTORY, IMAGE, STATE_ID, moment, process, running, vm

SOURCE = SourceRef("now/web.yaml", 7)
NOW = moment()
NGINX = Listener("0.0.0.0", 8080, 77, "nginx")


def ask(
    seen: Seen,
    spec: VmSpec | None = None,
    *,
    now: Moment = NOW,
    retry: Retry | None = None,
    listeners: tuple[Listener, ...] = (),
    free_disk: int | None = None,
    failed: str = "",
    began: float = 0.0,
) -> Step:
    """The answer for an instance that shall be as `spec` says: by default as it is."""
    spec = spec or VmSpec.from_canonical(seen.instance.spec)
    observed = Observed(instances=(seen,), listeners=listeners)
    policy = Policy(STATE_ID, "kvm")
    return answer(
        Question(
            seen=seen,
            spec=spec,
            source=SOURCE,
            retry=retry or Retry(vm_key(spec.name)),
            accelerator=policy.accelerator,
            leases=Leases(Desired(DIRECTORY), observed, policy),
            now=now,
            free_disk=free_disk,
            failed=failed,
            began=began,
        )
    )


def gone(instance: Instance, exit_: Exit | None = None) -> Seen:
    return Seen(instance, Verdict.GONE, exit=exit_)


def alive(instance: Instance, state: RunState | None = RunState.RUNNING, **view: Any) -> Seen:
    return Seen(instance, Verdict.ALIVE, View(state, **view), attached=True)


def unattached(instance: Instance) -> Seen:
    return Seen(instance, Verdict.ALIVE)


def stopped(spec: VmSpec, cause: Cause) -> Instance:
    return running(spec, phase=Phase.STOPPED, cause=cause, process=None, ready_at=None)


def kept(step: Step) -> tuple[str, str]:
    assert isinstance(step, Keep)
    assert step.source == SOURCE
    return step.reason, step.because


# It runs


def test_one_that_answers_is_kept() -> None:
    assert kept(ask(alive(running()))) == ("Ready", "it answers over SSH")


def test_one_that_does_not_answer_yet_is_given_its_boot_timeout() -> None:
    seen = alive(running(ready_at=None))
    assert kept(ask(seen, now=moment(300.5))) == ("Booting", "it does not answer over SSH yet")
    assert kept(ask(seen, now=moment(300.6))) == ("BootTimeout", "no SSH within 300 s")
    patient = running(vm(image=replace(IMAGE, boot_timeout=900.0)), ready_at=None)
    assert kept(ask(alive(patient), now=moment(700.0)))[0] == "Booting"


def test_one_that_a_new_agent_has_hardly_asked_is_not_too_late() -> None:
    """Its ledger may be lost, and with it that it was ready. Sabotage: count from the start of its process alone."""
    seen = alive(running(ready_at=None))
    late = moment(5000.0)
    assert kept(ask(seen, now=late, began=late.boottime - 10.0))[0] == "Booting"
    assert kept(ask(seen, now=late, began=late.boottime - 10.1))[0] == "BootTimeout"


def test_one_whose_image_takes_no_key_is_not_waited_for() -> None:
    spec = vm(image=replace(IMAGE, nocloud=False))
    seen = alive(running(spec, ready_at=None, ssh_port=None, forwards=()))
    assert kept(ask(seen, now=moment(9999.0))) == (
        "Running",
        "it runs; its image takes no key, so nobody can ask it",
    )


WEB_CHECK = HealthSpec("http", 10.0, 2.0, 3, 120.0, port=80, path="/ok")


def test_one_with_a_health_check_is_ready_by_that_alone() -> None:
    spec = vm(health=WEB_CHECK)
    seen = alive(running(spec))
    assert kept(ask(seen)) == ("Ready", "it passes its health check (http 80 /ok)")
    seen = alive(running(spec, ready_at=None))
    late = moment(9999.0)
    assert kept(ask(seen, now=late)) == (
        "Booting",
        "it has not passed its health check yet (http 80 /ok)",
    )
    mute = vm(image=replace(IMAGE, nocloud=False), health=WEB_CHECK)
    assert kept(ask(alive(running(mute, ready_at=None))))[0] == "Booting"


def test_one_that_fails_its_health_check_is_told_with_what_failed() -> None:
    seen = alive(running(vm(health=WEB_CHECK), ready_at=None, unhealthy="http 80 /ok: no answer"))
    assert kept(ask(seen)) == ("Unhealthy", "its health check fails: http 80 /ok: no answer")


def test_a_guest_that_resets_itself_again_and_again_is_told_while_it_is_not_ready() -> None:
    rebooting = running(ready_at=None)
    early = moment(100.0)
    assert kept(ask(alive(rebooting, resets=9, in_a_row=2), now=early))[0] == "Booting"
    assert kept(ask(alive(rebooting, resets=9, in_a_row=3), now=early)) == (
        "RebootLoop",
        "its guest has reset itself 3 times in a row and is not ready",
    )
    assert kept(ask(alive(running(), resets=9, in_a_row=9)))[0] == "Ready"


def test_what_an_earlier_version_recorded_in_fewer_words_is_no_change() -> None:
    spec = vm()
    older = json.loads(spec.canonical())
    del older["health"], older["depends_on"]
    digest = Digest("sha256:" + "9" * 64)
    instance = replace(running(spec), spec=json.dumps(older), spec_digest=digest)
    assert kept(ask(alive(instance), spec))[0] == "Ready"
    assert isinstance(ask(unattached(instance), spec), Adopt)


FULL = "the host could not read or write its disk: No space left on device"


def blocked(spec: VmSpec | None = None) -> Seen:
    return alive(running(spec), RunState.IO_ERROR, detail=FULL)


def test_one_whose_write_found_no_room_goes_on_when_there_is_some() -> None:
    step = ask(blocked(), free_disk=ROOM_TO_WRITE - 1)
    assert isinstance(step, Wait)
    assert (step.reason, step.until) == ("IOError", LOOK_FOR_ROOM)
    assert step.because == f"{FULL}; it goes on when there is room"
    for free in (None, ROOM_TO_WRITE):
        step = ask(blocked(), free_disk=free)
        assert isinstance(step, Unblock)
        assert step.because == f"{FULL}; there is room again"


def test_one_that_is_to_be_paused_is_not_let_go_on_for_there_being_room() -> None:
    assert kept(ask(blocked(vm(power="paused")), free_disk=1 << 40)) == ("IOError", FULL)


def test_a_process_that_cannot_be_looked_at_is_left_alone() -> None:
    seen = Seen(running(), Verdict.UNKNOWN)
    assert kept(ask(seen)) == ("Unknown", "its process cannot be looked at just now")
    assert kept(ask(seen, vm(memory=1 << 30, power="stopped")))[0] == "Unknown"


def test_a_silent_monitor_is_told_and_nothing_is_done_over_it() -> None:
    seen = alive(running(), responsive=False, detail="no answer within 3 s")
    assert kept(ask(seen)) == ("Unresponsive", "its monitor does not answer: no answer within 3 s")


def test_a_monitor_that_was_not_heard_yet_is_waited_for() -> None:
    assert kept(ask(alive(running(), None))) == ("Connecting", "its monitor was not heard yet")


@pytest.mark.parametrize(
    ("state", "reason", "because"),
    [
        (RunState.OTHER, "OtherState", "it says of itself: postmigrate"),
    ],
)
def test_a_state_that_only_a_person_can_mend_is_told(
    state: RunState, reason: str, because: str
) -> None:
    assert kept(ask(alive(running(), state, detail="postmigrate"))) == (reason, because)


# Power


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.INERT])
def test_one_that_shall_run_is_let_go(state: RunState) -> None:
    step = ask(alive(running(), state))
    assert isinstance(step, Power)
    assert (step.to, step.because, step.cause) == ("running", "power is running", Cause.POWER)


def test_one_that_shall_be_paused_is_paused_and_kept_so() -> None:
    spec = vm(power="paused")
    step = ask(alive(running()), spec)
    assert isinstance(step, Power)
    assert (step.to, step.spec, step.source, step.fields) == ("paused", spec, SOURCE, ("power",))
    for state in (RunState.PAUSED, RunState.INERT):
        assert kept(ask(alive(running(spec), state))) == ("Paused", "power is paused")


def test_one_that_is_already_as_power_says_has_only_that_recorded() -> None:
    step = ask(alive(running(), RunState.PAUSED), vm(power="paused"))
    assert isinstance(step, Update)
    assert (step.because, step.fields, step.spec) == (
        "power is paused", ("power",), vm(power="paused"),
    )  # fmt: skip
    assert (step.forwards, step.grow) == (None, None)


def test_one_that_shall_stop_is_given_its_stop_timeout() -> None:
    step = ask(alive(running(vm(stop_timeout=45.0))), vm(power="stopped", stop_timeout=45.0))
    assert isinstance(step, Power)
    assert (step.to, step.cause, step.grace) == ("stopped", Cause.POWER, 45.0)


def test_one_that_is_stopped_on_purpose_is_kept_until_it_is_wanted() -> None:
    spec = vm(power="stopped")
    seen = gone(stopped(spec, Cause.POWER))
    assert kept(ask(seen)) == ("Stopped", "power is stopped")
    step = ask(seen, vm(power="running"))
    assert isinstance(step, Restart)
    assert (step.because, step.fault, step.grace) == ("power is running", False, 0.0)


def test_one_that_was_lost_and_is_to_be_stopped_is_recorded_so() -> None:
    spec = vm(power="stopped")
    for instance in (
        running(spec),
        running(spec, process=process(boot_id="boot-0")),
        running(spec, phase=Phase.STOPPING),
        running(spec, phase=Phase.CRASHED, cause=Cause.EXIT),
    ):
        step = ask(gone(instance))
        assert isinstance(step, Power)
        assert (step.to, step.cause) == ("stopped", Cause.POWER)


# It ended


def test_one_whose_process_ended_is_started_again_and_it_counts() -> None:
    step = ask(gone(running(), Exit("killed by SIGKILL")))
    assert isinstance(step, Restart)
    assert step.because == "its process ended: killed by SIGKILL"
    assert (step.cause, step.fault, step.accelerator) == (Cause.EXIT, True, "kvm")


def test_one_whose_end_nobody_saw_says_so() -> None:
    step = ask(gone(running(phase=Phase.STARTING)))
    assert isinstance(step, Restart)
    assert step.because == "its process ended: nobody saw how"


def test_one_that_ended_and_is_never_restarted_is_recorded_and_then_kept() -> None:
    spec = vm(restart="never")
    step = ask(gone(running(spec), Exit("killed by SIGKILL")))
    assert isinstance(step, Crash)
    said = "its process ended: killed by SIGKILL"
    assert (step.cause, step.because) == (Cause.EXIT, said)
    crashed = running(spec, phase=Phase.CRASHED, cause=Cause.EXIT, detail="killed")
    assert kept(ask(gone(crashed))) == ("Crashed", "killed; restart is never")
    assert kept(ask(gone(replace(crashed, detail="")))) == (
        "Crashed",
        "its process ended; restart is never",
    )


def test_one_that_crashed_is_started_with_the_words_of_its_crash() -> None:
    seen = gone(running(phase=Phase.CRASHED, cause=Cause.EXIT, detail="its process ended: x"))
    step = ask(seen)
    assert isinstance(step, Restart)
    assert (step.because, step.cause, step.fault) == ("its process ended: x", Cause.EXIT, True)


def test_after_a_reboot_it_is_started_whatever_restart_says_and_it_counts_for_nothing() -> None:
    for restart in ("always", "on_failure", "never"):
        step = ask(gone(running(vm(restart=restart), process=process(boot_id="boot-0"))))
        assert isinstance(step, Restart)
        assert step.because == "the host was rebooted"
        assert (step.cause, step.fault) == (Cause.REBOOT, False)


def test_a_crash_loop_waits_and_says_how_often_it_was_tried() -> None:
    retry = failed(Retry("vm/web"), "no", moment(999.5))
    step = ask(gone(running(), Exit("killed")), retry=retry)
    assert isinstance(step, Wait)
    assert step.reason == "BackOff"
    assert step.because == "its process ended: killed; restarted once in a row"
    assert step.until is not None
    assert 0.5 <= step.until <= 0.6
    assert isinstance(ask(gone(running()), now=moment(1002.0), retry=retry), Restart)


def test_a_stop_that_was_cut_off_ends_in_a_start_when_it_is_wanted_again() -> None:
    for seen, grace in (
        (gone(running(phase=Phase.STOPPING)), 0.0),
        (alive(running(phase=Phase.STOPPING)), 30.0),
        (alive(running(phase=Phase.CRASHED)), 30.0),
        (alive(running(phase=Phase.STOPPED)), 30.0),
    ):
        step = ask(seen)
        assert isinstance(step, Restart)
        assert (step.because, step.cause) == ("a stop of it was cut off", Cause.POWER)
        assert step.grace == grace


@pytest.mark.parametrize(
    ("restart", "again"), [("always", True), ("on_failure", False), ("never", False)]
)
def test_a_guest_that_powered_itself_off(restart: str, again: bool) -> None:
    spec = vm(restart=restart)
    step = ask(alive(running(spec), RunState.OFF))
    said = f"the guest powered itself off; restart is {restart}"
    assert step.because == said
    if again:
        assert isinstance(step, Restart)
        assert (step.cause, step.fault, step.grace) == (Cause.GUEST_OFF, False, 0.0)
        later = ask(gone(stopped(spec, Cause.GUEST_OFF)))
        assert isinstance(later, Restart)
        assert later.because == "restart is always"
    else:
        assert isinstance(step, Power)
        assert (step.to, step.cause) == ("stopped", Cause.GUEST_OFF)
        assert kept(ask(gone(stopped(spec, Cause.GUEST_OFF)))) == ("GuestPoweredOff", said)


@pytest.mark.parametrize(
    ("restart", "again"), [("always", True), ("on_failure", True), ("never", False)]
)
def test_a_guest_that_panicked(restart: str, again: bool) -> None:
    spec = vm(restart=restart)
    step = ask(alive(running(spec), RunState.PANICKED))
    assert step.because == f"the guest's kernel panicked; restart is {restart}"
    if again:
        assert isinstance(step, Restart)
        assert (step.cause, step.fault, step.grace) == (Cause.PANIC, True, 0.0)
        assert isinstance(ask(gone(stopped(spec, Cause.PANIC))), Restart)
    else:
        assert isinstance(step, Power)
        assert (step.to, step.cause) == ("stopped", Cause.PANIC)
        assert kept(ask(gone(stopped(spec, Cause.PANIC)))) == (
            "Panicked",
            "the guest's kernel panicked; restart is never",
        )


# Its document changed


def test_a_live_change_is_brought_to_the_running_machine() -> None:
    spec = vm(labels=(("tier", "edge"),), stop_timeout=10.0)
    step = ask(alive(running()), spec)
    assert isinstance(step, Update)
    assert step.fields == ("labels", "stop_timeout")
    assert step.because == "labels {} -> {tier: edge}, stop_timeout 30s -> 10s"
    assert (step.forwards, step.grow, step.source) == (None, None, SOURCE)


def test_changed_ports_are_the_whole_new_set_with_the_ssh_port() -> None:
    spec = vm(ports=(Forward(8080, 80),))
    step = ask(alive(running()), spec)
    assert isinstance(step, Update)
    assert step.forwards == (Forward(22000, 22), Forward(8080, 80))


def test_a_port_that_cannot_be_had_costs_none_that_works() -> None:
    """Sabotage: give up what the new document has not got before the new port is free."""
    old = running(vm(ports=(Forward(8079, 80),)), forwards=(Forward(22000, 22), Forward(8079, 80)))
    step = ask(alive(old), vm(ports=(Forward(8080, 80),)), listeners=(NGINX,))
    assert isinstance(step, Wait)
    assert step.reason == "PortTaken"


def test_one_that_was_begun_without_its_forwards_is_given_them_before_it_runs() -> None:
    begun = running(phase=Phase.STARTING, forwards=(), ssh_port=22000)
    step = ask(alive(begun, RunState.INERT))
    assert isinstance(step, Update)
    assert step.forwards == (Forward(22000, 22),)
    bound = replace(begun, forwards=step.forwards)
    assert isinstance(ask(alive(bound, RunState.INERT)), Power)


def test_a_port_that_is_taken_is_waited_for_and_its_owner_named() -> None:
    spec = vm(ports=(Forward(8080, 80),))
    said = "port 8080 of 0.0.0.0 is taken by nginx (pid 77)"
    for seen in (alive(running()), gone(running())):
        step = ask(seen, spec, listeners=(NGINX,))
        assert isinstance(step, Wait)
        assert (step.reason, step.because) == ("PortTaken", said)


@pytest.mark.parametrize(
    ("old", "new", "grow"),
    [(None, 8 << 30, 8 << 30), (4 << 30, 8 << 30, 8 << 30), (8 << 30, 4 << 30, None),
     (8 << 30, None, None)],
)  # fmt: skip
def test_a_disk_grows_and_never_shrinks(old: int | None, new: int | None, grow: int | None) -> None:
    step = ask(alive(running(vm(disk=old))), vm(disk=new))
    assert isinstance(step, Update)
    assert (step.fields, step.grow) == (("disk",), grow)


def test_one_of_another_agent_is_adopted() -> None:
    step = ask(unattached(running()))
    assert isinstance(step, Adopt)
    assert (step.because, step.uid) == ("it runs as pid 4242", running().uid)


def test_one_of_another_agent_whose_document_changed_is_changed_and_so_adopted() -> None:
    step = ask(unattached(running()), vm(labels=(("a", "b"),)))
    assert isinstance(step, Update)
    step = ask(unattached(running()), vm(power="paused"))
    assert isinstance(step, Power)
    assert step.to == "paused"


def test_forwards_begin_with_the_ssh_port() -> None:
    spec = vm(ports=(Forward(8080, 80),))
    assert forwards_of(spec, 22000) == (Forward(22000, 22), Forward(8080, 80))
    assert forwards_of(spec, None) == (Forward(8080, 80),)


# What a stop needs, and what it does not


@pytest.mark.parametrize("state", [None, *RunState])
@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.CRASHED])
def test_one_that_shall_stop_is_stopped_whatever_state_it_is_in(
    state: RunState | None, phase: Phase
) -> None:
    spec = vm(power="stopped", ports=(Forward(8080, 80),))
    for responsive in (True, False):
        seen = alive(running(phase=phase), state, responsive=responsive)
        step = ask(seen, spec, listeners=(NGINX,))
        assert isinstance(step, Power)
        assert (step.to, step.cause, step.spec) == ("stopped", Cause.POWER, spec)


@pytest.mark.parametrize(
    ("state", "grace"),
    [(RunState.RUNNING, 30.0), (RunState.PAUSED, 30.0), (RunState.IO_ERROR, 30.0), (None, 30.0),
     (RunState.INERT, 0.0), (RunState.OFF, 0.0), (RunState.PANICKED, 0.0)],
)  # fmt: skip
def test_a_guest_is_given_time_unless_it_certainly_cannot_use_it(
    state: RunState | None, grace: float
) -> None:
    """Sabotage: give time only to one that runs. A paused guest is let go for its power-down, and has dirty pages."""
    step = ask(alive(running(), state), vm(power="stopped"))
    assert isinstance(step, Power)
    assert step.grace == grace


def test_taken_ports_of_one_that_is_stopped_are_no_matter_until_it_is_started() -> None:
    old, new = vm(power="stopped"), vm(power="stopped", ports=(Forward(8080, 80),))
    step = ask(gone(stopped(old, Cause.POWER)), new, listeners=(NGINX,))
    assert isinstance(step, Update)
    assert step.forwards == (Forward(22000, 22), Forward(8080, 80))
    wanted = vm(ports=(Forward(8080, 80),))
    assert isinstance(ask(gone(stopped(new, Cause.POWER)), wanted, listeners=(NGINX,)), Wait)


@pytest.mark.parametrize("cause", [Cause.GUEST_OFF, Cause.PANIC])
def test_one_that_went_down_by_itself_can_be_started_by_way_of_power_stopped(cause: Cause) -> None:
    """Sabotage: keep it as it is, since it is stopped already. Then `power: running` finds that its guest had powered
    itself off, and leaves it so."""
    down, off = vm(restart="never"), vm(restart="never", power="stopped")
    step = ask(gone(stopped(down, cause)), off)
    assert isinstance(step, Power)
    assert (step.to, step.cause, step.spec) == ("stopped", Cause.POWER, off)
    assert isinstance(ask(gone(stopped(off, Cause.POWER)), down), Restart)


# What stays down keeps up with its document


@pytest.mark.parametrize(
    "instance",
    [
        stopped(vm(restart="never"), Cause.GUEST_OFF),
        stopped(vm(restart="never"), Cause.PANIC),
        running(vm(restart="never"), phase=Phase.CRASHED, cause=Cause.EXIT),
        stopped(vm(restart="never", power="stopped"), Cause.POWER),
    ],
    ids=["off", "panicked", "crashed", "stopped"],
)
def test_a_live_change_of_one_that_stays_down_is_recorded(instance: Instance) -> None:
    old = VmSpec.from_canonical(instance.spec)
    step = ask(gone(instance), replace(old, labels=(("tier", "edge"),)))
    assert isinstance(step, Update)
    assert step.fields == ("labels",)


# A disk that is still to grow


@pytest.mark.parametrize(
    ("seen", "power"),
    [
        (gone(stopped(vm(disk=4 << 30), Cause.POWER)), "running"),
        (gone(running(vm(disk=4 << 30))), "running"),
        (gone(running(vm(disk=4 << 30))), "stopped"),
        (alive(running(vm(disk=4 << 30))), "stopped"),
        (alive(running(vm(disk=4 << 30), phase=Phase.STOPPING)), "running"),
    ],
    ids=["starts", "crashed", "crashed-stops", "stops", "cut-off"],
)
def test_a_start_or_a_stop_does_not_pass_for_the_growth_of_a_disk(seen: Seen, power: Any) -> None:
    """Sabotage: record the whole new spec at a restart. The disk then never grows, for nothing seems changed."""
    spec = vm(disk=8 << 30, power=power)
    step = ask(seen, spec)
    assert isinstance(step, Restart | Power)
    assert step.spec == replace(spec, disk=4 << 30)
    after = replace(
        seen.instance, spec=step.spec.canonical(), spec_digest=step.spec.digest,
        phase=Phase.RUNNING if power == "running" else Phase.STOPPED, cause=Cause.POWER,
    )  # fmt: skip
    then = ask(alive(after) if power == "running" else gone(after), spec)
    assert isinstance(then, Update)
    assert (then.grow, then.spec) == (8 << 30, spec)


def test_a_disk_that_is_asked_to_shrink_is_as_the_document_says_at_once() -> None:
    spec = vm(disk=2 << 30)
    step = ask(gone(running(vm(disk=4 << 30))), spec)
    assert isinstance(step, Restart)
    assert step.spec == spec


# An agent that died in the middle


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.STOPPED, Phase.CRASHED])
def test_one_whose_stop_was_cut_off_is_adopted_before_anything_else(phase: Phase) -> None:
    """Sabotage: bring it to the new power at once. The table of moves has nothing from stopping to running."""
    for spec in (vm(), vm(power="paused"), vm(power="stopped"), vm(labels=(("a", "b"),))):
        assert isinstance(ask(unattached(running(phase=phase)), spec), Adopt)


def test_one_whose_new_ports_are_taken_is_adopted_meanwhile() -> None:
    """Sabotage: wait for the port. Nobody then notices that the machine ends."""
    step = ask(unattached(running()), vm(ports=(Forward(8080, 80),)), listeners=(NGINX,))
    assert isinstance(step, Adopt)


def test_one_of_another_agent_that_shall_stop_is_stopped_though_its_new_ports_are_taken() -> None:
    spec = vm(ports=(Forward(8080, 80),), power="stopped")
    step = ask(unattached(running()), spec, listeners=(NGINX,))
    assert isinstance(step, Power)
    assert (step.to, step.grace) == ("stopped", 30.0)


def test_a_start_after_a_reboot_that_failed_is_tried_again_whatever_restart_says() -> None:
    """Sabotage: treat it as any crash. A machine that is never restarted then stays down after a reboot."""
    crashed = running(vm(restart="never"), phase=Phase.CRASHED, cause=Cause.REBOOT, detail="x")
    step = ask(gone(crashed))
    assert isinstance(step, Restart)
    assert (step.cause, step.because, step.fault) == (Cause.REBOOT, "the host was rebooted", False)
    assert isinstance(ask(gone(crashed), vm(restart="never", power="stopped")), Power)


def test_a_machine_whose_files_are_amiss_is_told_of_while_it_runs() -> None:
    view = View(RunState.RUNNING, remark="its disk /x was removed; save that")
    step = ask(Seen(running(), Verdict.ALIVE, view, attached=True))
    assert isinstance(step, Keep)
    assert step.reason == "FilesLost"
    assert step.because.startswith("its disk /x was removed; save that; it ")


def test_what_was_in_the_way_of_a_restart_is_said_while_the_next_is_waited_for() -> None:
    key = vm_key(running().name)
    retry = Retry(
        key, failures=3, retry_at=NOW.boottime + 9, retry_boot=NOW.boot_id, error="it ended"
    )
    step = ask(gone(running()), retry=retry, failed="starting web: its disk is missing")
    assert isinstance(step, Wait)
    assert step.because == "starting web: its disk is missing; restarted 3 times in a row"
