"""Random worlds for the planner: documents, recorded instances and what became of their processes, freely combined."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from agent.leases import forwards_of
from agent.policy import Policy
from state.desired import Desired, Problem, SourceRef
from state.ids import Digest, Name, Process, Uid, instance_uid
from state.lifecycle import Cause, Phase
from state.observed import (
    Instance,
    Listener,
    NameRecord,
    Observed,
    Retry,
    RunState,
    Seen,
    Verdict,
    View,
    step_key,
    vm_key,
)
from state.spec.resolved import Forward, HealthSpec, VmSpec
from tests.builders import BASE, DIRECTORY, IMAGE, STATE_ID, vm, wanted

BOOT = "boot-1"
POLICY = Policy(STATE_ID, "tcg", run_as=range(61000, 61020))
NAMES = [Name(name) for name in ("web", "db", "api", "cache")]
HEALTH = HealthSpec("tcp", 10.0, 2.0, 3, 120.0, port=80)
OTHER_BASE = replace(BASE, digest=Digest("sha256:" + "2" * 64))
UNPINNED = replace(IMAGE, digest=None)


@st.composite
def specs(draw: st.DrawFn, name: Name) -> VmSpec:
    return vm(
        name,
        image=draw(st.sampled_from([IMAGE, UNPINNED])),
        memory=draw(st.sampled_from([256 << 20, 512 << 20])),
        labels=draw(st.sampled_from([(), (("tier", "edge"),)])),
        ports=draw(st.sampled_from([(), (Forward(8080, 80),), (Forward(22000, 22),)])),
        power=draw(st.sampled_from(["running", "stopped", "paused"])),
        restart=draw(st.sampled_from(["always", "on_failure", "never"])),
        suspend=draw(st.sampled_from([False, False, False, True])),
        protect=draw(st.sampled_from([False, False, False, True])),
        health=draw(st.sampled_from([None, None, HEALTH])),
        depends_on=draw(st.sampled_from([(), (), tuple(NAMES[:1]), tuple(NAMES[:2])]))
        if name != "web"
        else (),
    )


@st.composite
def instances(draw: st.DrawFn, name: Name, generation: int) -> Seen:
    spec = draw(specs(name))
    phase = draw(st.sampled_from(list(Phase)))
    verdict = draw(st.sampled_from(list(Verdict)))
    uid = instance_uid(STATE_ID, "vm", name, generation)
    pid = 4000 + 10 * NAMES.index(name) + generation
    boot = draw(st.sampled_from([BOOT, BOOT, "boot-0"])) if verdict is Verdict.GONE else BOOT
    has_process = verdict is not Verdict.GONE or phase in (Phase.RUNNING, Phase.STOPPING)
    never_ran = phase is Phase.PENDING or (phase is Phase.STARTING and draw(st.booleans()))
    if phase is Phase.PENDING:
        verdict, has_process = Verdict.GONE, False
    instance = Instance(
        uid=uid,
        name=name,
        generation=generation,
        phase=phase,
        cause=draw(st.sampled_from(list(Cause))),
        spec=spec.canonical(),
        spec_digest=spec.digest,
        base=draw(st.sampled_from([BASE, OTHER_BASE])),
        accelerator="tcg",
        source=SourceRef(f"{name}.yaml", 1),
        created_at=0.0,
        process=Process(boot, pid, 100) if has_process else None,
        forwards=forwards_of(spec, 22000 + NAMES.index(name)),
        ssh_port=22000 + NAMES.index(name),
        run_as=61000 + 2 * NAMES.index(name) + generation % 2,
        started_at=None if never_ran else 1.0,
        ready_at=draw(st.sampled_from([None, 2.0])),
    )
    view = View(draw(st.sampled_from([None, *RunState])), responsive=draw(st.booleans()))
    attached = verdict is Verdict.ALIVE and draw(st.booleans())
    return Seen(instance, verdict, view if attached else View(None), attached=attached)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Desired, Observed]:
    """A source and a world that need not fit together."""
    seen: list[Seen] = []
    records: dict[Name, NameRecord] = {}
    retries: dict[str, Retry] = {}
    vms: list[VmSpec] = []
    problems: list[Problem] = []
    for at, name in enumerate(NAMES):
        own = [
            draw(instances(name, generation))
            for generation in range(1, 1 + draw(st.sampled_from([0, 1, 1, 2])))
        ]
        seen += own
        remembered = draw(st.booleans())
        if own or remembered:
            records[name] = NameRecord(name, len(own), 22000 + at)
        standing = draw(st.sampled_from(["wanted", "wanted", "absent", "held"]))
        if standing == "wanted":
            vms.append(draw(specs(name)))
        elif standing == "held":
            problems.append(Problem(f"{name}.yaml", 1, 1, "broken", name, "vm"))
        for key in (vm_key(name), step_key(name, "replace"), step_key(name, "restart")):
            if draw(st.sampled_from([False, False, True])):
                retries[key] = Retry(key, "", 2, draw(st.sampled_from([900.0, 1100.0])), BOOT, "no")
    unproven = draw(st.sampled_from([None, None, "the tree is gone"]))
    desired = Desired(DIRECTORY, wanted(*vms), tuple(problems), unproven=unproven)
    images = {image: BASE for image in (IMAGE, UNPINNED) if draw(st.booleans())}
    busy = {name: "create: busy" for name in NAMES if draw(st.sampled_from([False, False, True]))}
    listeners = draw(st.sampled_from([(), (Listener("0.0.0.0", 8080, 1, "nginx"),)]))
    observed = Observed(
        instances=tuple(seen),
        names=records,
        images=images,
        listeners=listeners,
        busy=busy,
        fetching={IMAGE: "3%"} if draw(st.booleans()) and IMAGE not in images else {},
        retries=retries,
    )
    return desired, observed


def alive(seen: Seen) -> bool:
    return seen.verdict is not Verdict.GONE


def uids_of(observed: Observed) -> set[Uid]:
    return {seen.instance.uid for seen in observed.instances}
