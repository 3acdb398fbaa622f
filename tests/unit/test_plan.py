"""What one pass decides over names: each answer with the words that a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.backoff import failed
from agent.plan import plan
from agent.planned import Plan
from agent.policy import Policy
from agent.steps import (
    Adopt,
    Clear,
    Create,
    Destroy,
    Hold,
    Keep,
    Power,
    Replace,
    Restart,
    Step,
    Update,
    Wait,
    target,
)
from state.desired import Desired, SourceRef
from state.ids import Digest, Name, instance_uid
from state.lifecycle import Cause, Phase
from state.observed import (
    BaseImage,
    Instance,
    Listener,
    NameRecord,
    Observed,
    Retry,
    RunState,
    Seen,
    Verdict,
    View,
    image_key,
    step_key,
)
from state.spec.resolved import Forward, ImageSpec, VmSpec
from tests.builders import (
    BASE,
    IMAGE,
    STATE_ID,
    broken,
    desired,
    instance,
    moment,
    process,
    running,
    vm,
)

NOW = moment()
WEB = Name("web")
UNPINNED = replace(IMAGE, digest=None)
OTHER_BASE = replace(BASE, digest=Digest("sha256:" + "2" * 64))
POLICY = Policy(STATE_ID, "kvm", ssh_ports=range(22000, 22002), run_as=range(61000, 61010))
Images = Mapping[ImageSpec, BaseImage]
HERE: Images = {IMAGE: BASE}


def decide(
    wish: Desired,
    *seen: Seen,
    images: Images = HERE,
    retries: Iterable[Retry] = (),
    **observed: Any,
) -> Plan:
    observed.setdefault(
        "names",
        {
            one.instance.name: NameRecord(
                one.instance.name, one.instance.generation, one.instance.ssh_port
            )
            for one in seen
        },
    )
    return plan(
        wish,
        Observed(
            instances=seen, images=images, retries={one.key: one for one in retries}, **observed
        ),
        POLICY,
        NOW,
    )


def only(decided: Plan) -> Step:
    [step] = decided.steps
    return step


def alive(one: Instance) -> Seen:
    return Seen(one, Verdict.ALIVE, View(RunState.RUNNING), attached=True)


def gone(one: Instance) -> Seen:
    return Seen(one, Verdict.GONE)


def unknown(one: Instance) -> Seen:
    return Seen(one, Verdict.UNKNOWN)


def unborn(spec: VmSpec, generation: int = 1) -> Seen:
    return gone(instance(spec, generation=generation, run_as=61005))


# Creating


def test_a_new_name_is_created_with_every_choice_made() -> None:
    spec = vm(ports=(Forward(8080, 80),))
    step = only(decide(desired(spec)))
    assert isinstance(step, Create)
    assert (step.because, step.fetch) == ("no instance of it is there", None)
    assert step.source == SourceRef("web.yaml", 1)
    birth = step.birth
    assert birth.uid == instance_uid(STATE_ID, "vm", "web", 1)
    assert (birth.generation, birth.ssh_port, birth.run_as) == (1, 22000, 61000)
    assert (birth.accelerator, birth.spec) == ("kvm", spec)
    assert birth.forwards == (Forward(22000, 22), Forward(8080, 80))


def test_a_name_that_was_there_before_goes_on_counting() -> None:
    step = only(decide(desired(vm()), names={WEB: NameRecord(WEB, 7, 22001)}))
    assert isinstance(step, Create)
    assert (step.birth.generation, step.birth.ssh_port) == (8, 22001)


def test_an_image_that_takes_no_key_needs_no_port() -> None:
    image = replace(IMAGE, nocloud=False)
    step = only(decide(desired(vm(image=image)), images={image: BASE}))
    assert isinstance(step, Create)
    assert (step.birth.ssh_port, step.birth.forwards) == (None, ())


def test_a_vm_that_is_wanted_stopped_is_not_created_to_be_stopped() -> None:
    for seen in ((), (unborn(vm(power="stopped")),)):
        decided = decide(desired(vm(power="stopped")), *seen, images={})
        step = only(decided)
        assert isinstance(step, Keep)
        assert (step.reason, step.because) == (
            "Stopped", "power is stopped, and it was never started",
        )  # fmt: skip
        assert decided.fetches == ()


def test_a_creation_that_was_cut_off_goes_on_with_what_it_has() -> None:
    step = only(decide(desired(vm(labels=(("a", "b"),))), unborn(vm())))
    assert isinstance(step, Create)
    assert step.because == "it was never started"
    assert (step.birth.generation, step.birth.run_as) == (1, 61005)
    assert step.birth.spec == vm(labels=(("a", "b"),))


def test_a_disk_that_was_made_for_a_smaller_size_grows_once_it_runs() -> None:
    step = only(decide(desired(vm(disk=8 << 30)), unborn(vm(disk=4 << 30))))
    assert isinstance(step, Create)
    assert step.birth.spec.disk == 4 << 30


def test_no_free_port_is_a_reason() -> None:
    names = {Name(n): NameRecord(Name(n), 1, port) for n, port in (("a", 22000), ("b", 22001))}
    decided = decide(desired(vm()), names=names)
    [step] = [step for step in decided.steps if step.name == "web"]
    assert isinstance(step, Wait)
    assert (step.reason, step.because) == (
        "NoFreePort", "every port from 22000 to 22001 is leased or taken",
    )  # fmt: skip


def test_a_taken_port_is_a_reason_that_names_its_owner() -> None:
    nginx = Listener("0.0.0.0", 8080, 77, "nginx")
    step = only(decide(desired(vm(ports=(Forward(8080, 80),))), listeners=(nginx,)))
    assert isinstance(step, Wait)
    assert (step.reason, step.fields) == ("PortTaken", ("ports",))
    assert step.because == "port 8080 of 0.0.0.0 is taken by nginx (pid 77)"


def test_an_image_that_is_missing_is_fetched_and_the_creation_shown_with_it() -> None:
    decided = decide(desired(vm()), images={})
    step = only(decided)
    assert isinstance(step, Create)
    assert step.fetch == IMAGE
    assert decided.fetches == (IMAGE,)


def test_an_image_that_cannot_be_had_is_waited_for() -> None:
    key = image_key(IMAGE)
    retry = failed(Retry(key), "fetching it: 404", moment(999.9))
    decided = decide(desired(vm()), images={}, retries=[retry])
    step = only(decided)
    assert isinstance(step, Wait)
    assert (step.reason, decided.fetches) == ("ImageUnavailable", ())


# Waiting for what is under way, or has failed


def test_a_name_with_a_step_under_way_is_left_to_it() -> None:
    step = only(decide(desired(vm()), alive(running()), busy={WEB: "update: labels"}))
    assert isinstance(step, Wait)
    assert (step.reason, step.because) == ("InProgress", "update: labels")


def test_what_failed_is_tried_again_only_when_its_time_has_come() -> None:
    first = only(decide(desired(vm())))
    retry = failed(
        Retry(step_key(WEB, first.action)), "the disk is full", moment(999.9), target(first)
    )
    step = only(decide(desired(vm()), retries=[retry]))
    assert isinstance(step, Wait)
    assert (step.reason, step.because) == ("BackOff", "the disk is full; tried once so far")
    assert step.until is not None
    due = replace(retry, retry_at=999.0)
    assert only(decide(desired(vm()), retries=[due])) == first


def test_a_changed_document_does_not_wait_for_what_failed_before() -> None:
    first = only(decide(desired(vm())))
    retry = failed(
        Retry(step_key(WEB, first.action)), "the disk is full", moment(999.9), target(first)
    )
    assert isinstance(only(decide(desired(vm(memory=1 << 30)), retries=[retry])), Create)


def test_while_a_replacement_waits_for_its_next_try_the_old_machine_is_looked_after() -> None:
    wish = desired(vm(memory=1 << 30))
    first = only(decide(wish, alive(running())))
    retry = failed(Retry(step_key(WEB, first.action)), "no memory", moment(999.9), target(first))
    waits = only(decide(wish, alive(running()), retries=[retry]))
    assert isinstance(waits, Wait)
    assert waits.reason == "BackOff"
    foreign = alive(running())._replace(attached=False)
    assert isinstance(only(decide(wish, foreign, retries=[retry])), Adopt)
    step = only(decide(wish, gone(running()), retries=[retry]))
    assert isinstance(step, Restart)
    assert step.spec == vm()


def test_while_a_replacement_waits_its_power_is_obeyed() -> None:
    """Sabotage: look after the old machine by its old document alone. What is wanted stopped is then started."""
    wish = desired(vm(memory=1 << 30, power="stopped", depends_on=("db",)))
    for found in (gone(running()), gone(replace(running(), started_at=None))):
        assert not isinstance(only(decide(wish, found)), Create | Restart)
    step = only(decide(wish, alive(running())))
    assert isinstance(step, Power)
    assert step.to == "stopped"


def test_while_a_live_change_waits_for_its_next_try_the_machine_is_looked_after() -> None:
    """Sabotage: wait for the change alone. A new agent then leaves the machine unwatched for minutes."""
    wish = desired(vm(disk=1 << 40))
    first = only(decide(wish, alive(running())))
    retry = failed(Retry(step_key(WEB, first.action)), "no room", moment(999.9), target(first))
    foreign = alive(running())._replace(attached=False)
    assert isinstance(only(decide(wish, foreign, retries=[retry])), Adopt)
    panicked = alive(running())._replace(view=View(RunState.PANICKED))
    assert isinstance(only(decide(wish, panicked, retries=[retry])), Restart)
    paused = alive(running())._replace(view=View(RunState.PAUSED))
    step = only(decide(wish, paused, retries=[retry]))
    assert isinstance(step, Wait)
    assert step.reason == "BackOff"


def test_a_guest_that_the_host_cannot_hold_is_refused_and_the_old_machine_kept() -> None:
    policy = replace(POLICY, memory=2 << 30)
    wish = desired(vm(memory=4 << 30))
    for seen in ((), (alive(running()),)):
        observed = Observed(instances=seen, images=HERE)
        step = only(plan(wish, observed, policy, NOW))
        assert isinstance(step, Wait)
        assert step.reason == "NotEnoughMemory"
        assert step.because == "memory 4GiB is more than this host has (2GiB)"
    assert isinstance(only(decide(wish)), Create)


# Held


def test_a_broken_document_holds_its_machine_and_says_where() -> None:
    step = only(decide(desired(problems=[broken("web")]), alive(running())))
    assert isinstance(step, Hold)
    assert (step.reason, step.because) == ("InvalidDocument", "web.yaml:3:1: it is broken")


def test_a_broken_document_of_an_unknown_name_is_held_too() -> None:
    assert isinstance(only(decide(desired(problems=[broken("web")]))), Hold)


def test_a_problem_that_cannot_tell_its_name_holds_nobody_by_itself() -> None:
    decided = decide(desired(vm(), problems=[broken(None)]), alive(running()))
    assert isinstance(only(decided), Keep)


def test_what_is_absent_is_held_while_its_absence_is_not_proven() -> None:
    step = only(decide(desired(unproven="/desired has no documents"), alive(running())))
    assert isinstance(step, Hold)
    assert (step.reason, step.because) == ("AbsenceUnproven", "/desired has no documents")


def test_a_held_machine_that_died_is_started_by_its_own_spec() -> None:
    own = vm(labels=(("own", "spec"),))
    step = only(decide(desired(problems=[broken("web")]), gone(running(own))))
    assert isinstance(step, Restart)
    assert step.spec == own


def test_a_held_machine_waits_for_its_next_try_as_any_other() -> None:
    retry = failed(Retry("vm/web"), "no", moment(999.9))
    step = only(decide(desired(problems=[broken("web")]), gone(running()), retries=[retry]))
    assert isinstance(step, Wait)
    assert step.reason == "BackOff"


def test_a_held_machine_that_was_suspended_stays_so() -> None:
    suspended = gone(running(vm(suspend=True)))
    assert isinstance(only(decide(desired(problems=[broken("web")]), suspended)), Hold)


def test_while_held_the_machine_that_runs_counts_and_not_what_was_to_replace_it() -> None:
    old, new = alive(running()), unborn(vm(memory=1 << 30), 2)
    step = only(decide(desired(problems=[broken("web")]), old, new))
    assert isinstance(step, Hold)


def test_of_two_that_live_while_held_neither_is_touched() -> None:
    one = alive(running())
    two = Seen(
        running(generation=2, process=process(4243)),
        Verdict.ALIVE,
        View(RunState.PANICKED),
        None,
        True,
    )
    assert isinstance(only(decide(desired(problems=[broken("web")]), one, two)), Hold)


# Absent


def test_what_no_document_names_is_destroyed_with_the_longest_time_to_end() -> None:
    one = running(vm(stop_timeout=10.0))
    two = running(vm(stop_timeout=60.0), generation=2)
    step = only(decide(desired(), alive(one), alive(two)))
    assert isinstance(step, Destroy)
    assert step.uids == (one.uid, two.uid)
    assert (step.grace, step.because) == (60.0, "no document names it any more")


def test_a_name_that_was_destroyed_is_only_a_memory() -> None:
    assert decide(desired(), names={WEB: NameRecord(WEB, 3)}).steps == ()


def test_a_protected_machine_that_no_document_names_is_kept_alive() -> None:
    protected = running(vm(protect=True))
    assert isinstance(only(decide(desired(), alive(protected))), Hold)
    assert isinstance(only(decide(desired(), gone(protected))), Restart)


def test_a_name_without_an_instance_is_forgotten() -> None:
    step = only(decide(desired(), names={WEB: NameRecord(WEB, 3, 22000)}))
    assert isinstance(step, Destroy)
    assert (step.uids, step.grace, step.source) == ((), 0.0, None)


def test_a_protected_one_is_not_destroyed_whatever_is_newer() -> None:
    step = only(decide(desired(), alive(running(vm(protect=True))), unborn(vm(), 2)))
    assert isinstance(step, Hold)
    assert step.reason == "Protected"
    assert step.because == "no document names it any more, but it is protected"


def test_one_that_cannot_be_looked_at_is_not_destroyed_yet() -> None:
    step = only(decide(desired(), unknown(running())))
    assert isinstance(step, Wait)
    assert step.reason == "Unknown"
    said = "no document names it any more, but its process cannot be looked at"
    assert step.because == said


# Suspended


def test_a_suspended_one_is_left_alone_and_that_is_noted_first() -> None:
    spec = vm(suspend=True, memory=1 << 30)
    step = only(decide(desired(spec), gone(running())))
    assert isinstance(step, Update)
    assert (step.fields, step.spec) == (("suspend",), vm(suspend=True))
    step = only(decide(desired(spec), gone(running(vm(suspend=True)))))
    assert isinstance(step, Keep)
    assert (step.reason, step.because) == ("Suspended", "suspend is true")
    assert isinstance(only(decide(desired(spec))), Keep)


def test_of_two_the_running_one_is_noted_as_suspended() -> None:
    """Sabotage: note it of the newest. Held, the running one is then started again when it dies."""
    old, new = alive(running()), unborn(vm(memory=1 << 30), 2)
    step = only(decide(desired(vm(suspend=True)), old, new))
    assert isinstance(step, Update)
    assert step.uid == old.instance.uid


# Replacing


def test_a_field_that_cannot_change_on_a_machine_replaces_it_and_is_named() -> None:
    spec = vm(memory=1 << 30, cpus=2, labels=(("a", "b"),))
    step = only(decide(desired(spec), alive(running())))
    assert isinstance(step, Replace)
    assert step.because == "cpus 1 -> 2, memory 512MiB -> 1GiB"
    assert step.fields == ("cpus", "memory")
    assert step.old == (running().uid,)
    assert step.birth.generation == 2
    assert step.birth.ssh_port == 22000
    assert step.birth.uid == instance_uid(STATE_ID, "vm", "web", 2)


def test_an_image_whose_content_changed_replaces_its_machine() -> None:
    spec = vm(image=UNPINNED)
    step = only(decide(desired(spec), alive(running(spec)), images={UNPINNED: OTHER_BASE}))
    assert isinstance(step, Replace)
    assert step.fields == ("image",)
    assert step.because == "image sha256:111111111111 -> sha256:222222222222"


def test_an_image_that_was_pinned_anew_is_named_once() -> None:
    new = replace(IMAGE, digest=OTHER_BASE.digest)
    step = only(decide(desired(vm(image=new)), alive(running()), images={new: OTHER_BASE}))
    assert isinstance(step, Replace)
    assert step.fields == ("image",)


def test_content_that_is_not_known_is_fetched_and_meanwhile_nothing_is_changed() -> None:
    spec = vm(image=UNPINNED)
    decided = decide(desired(spec), alive(running(spec)), images={})
    assert isinstance(only(decided), Keep)
    assert decided.fetches == (UNPINNED,)


def test_a_replacement_waits_for_its_image_with_the_old_machine_running() -> None:
    decided = decide(desired(vm(memory=1 << 30)), alive(running()), images={}, fetching={IMAGE: ""})
    assert isinstance(only(decided), Wait)
    decided = decide(desired(vm(memory=1 << 30)), alive(running()), images={})
    step = only(decided)
    assert isinstance(step, Replace)
    assert step.fetch == IMAGE


def test_a_replacement_of_one_that_cannot_be_looked_at_waits() -> None:
    step = only(decide(desired(vm(memory=1 << 30)), unknown(running())))
    assert isinstance(step, Wait)
    assert (step.reason, step.fields) == ("Unknown", ("memory",))
    said = "to be replaced (memory 512MiB -> 1GiB), but its process cannot be looked at"
    assert step.because == said


def test_a_protected_machine_is_not_replaced_and_the_plan_says_that_it_would_be() -> None:
    old, new = vm(protect=True), vm(protect=True, memory=1 << 30)
    step = only(decide(desired(new), alive(running(old))))
    assert isinstance(step, Hold)
    assert (step.reason, step.fields) == ("Protected", ("memory",))
    said = "it would be replaced (memory 512MiB -> 1GiB), but it is protected"
    assert step.because == said
    assert isinstance(only(decide(desired(vm(memory=1 << 30)), alive(running(old)))), Replace)


def test_a_replacement_that_was_cut_off_goes_on_with_the_same_instance() -> None:
    spec = vm(memory=1 << 30)
    old, new = alive(running()), unborn(spec, 2)
    step = only(decide(desired(spec), old, new))
    assert isinstance(step, Replace)
    assert step.because == "memory 512MiB -> 1GiB"
    assert (step.birth.uid, step.old) == (new.instance.uid, (old.instance.uid,))
    assert step.birth.run_as == 61005


def test_a_replacement_that_was_cut_off_for_an_image_is_told_as_begun() -> None:
    spec = vm(image=UNPINNED)
    old, new = alive(running(spec)), gone(instance(spec, generation=2, base=OTHER_BASE))
    step = only(decide(desired(spec), old, new, images={UNPINNED: OTHER_BASE}))
    assert isinstance(step, Replace)
    assert (step.because, step.fields) == ("a replacement was begun", ())


def test_a_replacement_that_is_overtaken_is_cleared_away_with_the_old_machine() -> None:
    old, new = alive(running()), unborn(vm(memory=1 << 30), 2)
    step = only(decide(desired(vm(memory=2 << 30)), old, new))
    assert isinstance(step, Replace)
    assert step.old == (old.instance.uid, new.instance.uid)
    assert step.birth.generation == 3


def test_a_replacement_that_is_wanted_no_more_is_cleared_away_and_the_old_machine_stays() -> None:
    """Sabotage: replace whenever the newest differs. The machine that is right then loses its disk."""
    old, new = alive(running()), unborn(vm(memory=1 << 30), 2)
    for spec in (vm(), vm(labels=(("a", "b"),))):
        step = only(decide(desired(spec), old, new))
        assert isinstance(step, Clear)
        assert step.uids == (new.instance.uid,)
        assert step.because == "generation 1 is what is wanted again"


def test_several_replacements_that_never_ran_are_cleared_away_together() -> None:
    old = alive(running())
    new = [unborn(vm(memory=1 << 30), 2), unborn(vm(memory=2 << 30), 3)]
    step = only(decide(desired(vm()), old, *new))
    assert isinstance(step, Clear)
    assert step.uids == tuple(one.instance.uid for one in new)


def test_a_replacement_that_has_run_is_not_cleared_away() -> None:
    newer = running(vm(memory=1 << 30), generation=2, process=process(4243))
    step = only(decide(desired(vm()), alive(running()), alive(newer)))
    assert isinstance(step, Replace)
    assert len(step.old) == 2


def test_a_replacement_of_a_stopped_machine_needs_no_port() -> None:
    nginx = Listener("0.0.0.0", 8080, 77, "nginx")
    spec = vm(power="stopped", memory=1 << 30, ports=(Forward(8080, 80),))
    old = running(vm(power="stopped"), phase=Phase.STOPPED, cause=Cause.POWER, process=None)
    assert isinstance(only(decide(desired(spec), gone(old), listeners=(nginx,))), Replace)


# Everything together


def test_every_name_is_answered_in_order() -> None:
    decided = decide(
        desired(vm("web"), vm("new"), problems=[broken("bad", "bad.yaml")]),
        alive(running(vm("web"))),
        alive(running(vm("old"), process=process(4243), ssh_port=22001)),
    )
    assert [(step.action, step.name) for step in decided.steps] == [
        ("hold", "bad"), ("wait", "new"), ("destroy", "old"), ("keep", "web"),
    ]  # fmt: skip


def test_one_that_only_has_to_be_adopted_is_adopted() -> None:
    assert isinstance(only(decide(desired(vm()), Seen(running(), Verdict.ALIVE))), Adopt)


@pytest.mark.parametrize("verdict", Verdict)
def test_an_unchanged_ready_machine_is_never_touched(verdict: Verdict) -> None:
    seen = Seen(running(), verdict, View(RunState.RUNNING), attached=verdict is Verdict.ALIVE)
    step = only(decide(desired(vm()), seen))
    assert step.action in ("keep", "restart")
    assert (step.action == "restart") is (verdict is Verdict.GONE)
