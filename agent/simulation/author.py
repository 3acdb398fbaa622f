"""Who writes the documents of a simulation: a few names, edited at random, and at last left whole.

It makes what a source would have read; documents as text are tried elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

from agent.hypervisor.memory import Scripted
from state.desired import Desired, Problem, SourceInfo, SourceRef, WantedJob, WantedVm
from state.ids import Digest, Name
from state.spec.resolved import Forward, HealthSpec, ImageSpec, Power, Restart, VmSpec
from state.spec.resolved_job import JobSpec, Retries

MIB = 1 << 20
CANARY = "canary-7f3a9c"
"""A job's secret, which is never to be found in a log."""

IMAGES = (
    ImageSpec("pinned", "https://images.example/pinned", Digest("sha256:" + "1" * 64)),
    ImageSpec("moving", "https://images.example/moving"),
)
HEALTH = HealthSpec("tcp", interval=10.0, timeout=2.0, failures=3, start_period=60.0, port=80)
SOURCE = SourceInfo("directory", "/desired")
_POWER: tuple[Power, ...] = ("running", "stopped", "paused")
_RESTART: tuple[Restart, ...] = ("always", "on_failure", "never")
_CHANGED = (
    "memory", "user_data", "image", "labels", "ports", "power", "restart", "health", "suspend",
    "protect", "depends_on", "disk",
)  # fmt: skip


@dataclass
class Author:
    """The documents as they are just now. `unproven`: the tree as a whole cannot be read."""

    chance: Random
    names: list[Name]
    job_names: list[Name]
    vms: dict[Name, VmSpec] = field(default_factory=dict)
    jobs: dict[Name, JobSpec] = field(default_factory=dict)
    broken: set[Name] = field(default_factory=set)
    unproven: bool = False

    def desired(self) -> Desired:
        """What an agent is told that the documents say."""
        if self.unproven:
            return Desired(SOURCE, unproven="the tree cannot be read")
        problems = tuple(
            Problem(f"{name}.yaml", 1, 1, "it is broken", name, "vm" if name in self.vms else "job")
            for name in sorted(self.broken)
        )
        vms = {
            name: WantedVm(spec, _at(name))
            for name, spec in self.vms.items()
            if name not in self.broken
        }
        jobs = {
            name: WantedJob(spec, _at(name))
            for name, spec in self.jobs.items()
            if name not in self.broken
        }
        return Desired(SOURCE, vms, problems, jobs=jobs)

    # Edits

    def edit(self) -> str:
        """Change something; what it was, in words."""
        edits: list[tuple[int, Callable[[], str]]] = [
            (6, self._write_vm),
            (6, self._change_vm),
            (3, self._delete),
            (2, self._break),
            (3, self._mend),
            (1, self._hide),
            (3, self._write_job),
        ]
        [act] = self.chance.choices([act for _, act in edits], [weight for weight, _ in edits])
        return act()

    def fill(self) -> None:
        """Write a document for every name."""
        for name in self.names:
            self.vms[name] = self._vm(name)

    def probe(self) -> VmSpec:
        """A plain vm beside all others, of an image that nothing has happened to."""
        image = replace(IMAGES[0], label="probe", source="file:///images/probe.qcow2")
        spec = VmSpec(Name("probe"), image, 1, 64 * MIB)
        self.vms[spec.name] = spec
        return spec

    def settle(self) -> None:
        """Leave documents that can all be followed."""
        self.unproven = False
        self.broken.clear()
        for name, spec in self.vms.items():
            self.vms[name] = replace(
                spec,
                power="running" if spec.power == "paused" else spec.power,
                restart="always",
                suspend=False,
                protect=False,
                depends_on=tuple(one for one in spec.depends_on if self._serves(one)),
            )

    def _serves(self, name: Name) -> bool:
        return name in self.vms and self.vms[name].power != "stopped"

    def _write_vm(self) -> str:
        name = self.chance.choice(self.names)
        self.vms[name] = self._vm(name)
        return f"write {name}"

    def _change_vm(self) -> str:
        if not self.vms:
            return self._write_vm()
        name = self.chance.choice(sorted(self.vms))
        old, new = self.vms[name], self._vm(name)
        key = self.chance.choice(_CHANGED)
        self.vms[name] = replace(old, **{key: getattr(new, key)})
        return f"change {key} of {name}"

    def _delete(self) -> str:
        known = sorted({*self.vms, *self.jobs})
        if not known:
            return self._write_vm()
        name = self.chance.choice(known)
        self.vms.pop(name, None)
        self.jobs.pop(name, None)
        self.broken.discard(name)
        return f"delete {name}"

    def _break(self) -> str:
        known = sorted({*self.vms, *self.jobs})
        if not known:
            return self._write_vm()
        name = self.chance.choice(known)
        self.broken.add(name)
        return f"break {name}"

    def _mend(self) -> str:
        self.broken.clear()
        self.unproven = False
        return "mend"

    def _hide(self) -> str:
        self.unproven = True
        return "hide the tree"

    def _write_job(self) -> str:
        name = self.chance.choice(self.job_names)
        self.jobs[name] = self._job(name)
        return f"write {name}"

    # What is written

    def _vm(self, name: Name) -> VmSpec:
        chance, at = self.chance, self.names.index(name)
        ports = (Forward(8000 + at, 80),) if chance.random() < 0.5 else ()
        before = self.names[max(0, at - 4) : at]
        return VmSpec(
            name=name,
            image=chance.choice(IMAGES),
            cpus=1,
            memory=chance.choice([64 * MIB, 128 * MIB]),
            disk=chance.choice([None, 4 << 30, 8 << 30]),
            labels=chance.choice([(), (("tier", "edge"),)]),
            ports=ports,
            user_data=chance.choice([None, "#cloud-config\n"]),
            power=chance.choices(_POWER, [8, 1, 1])[0],
            restart=chance.choices(_RESTART, [6, 2, 1])[0],
            suspend=chance.random() < 0.05,
            protect=chance.random() < 0.05,
            stop_timeout=chance.choice([0.0, 10.0]),
            health=HEALTH if chance.random() < 0.2 else None,
            depends_on=(chance.choice(before),) if before and chance.random() < 0.2 else (),
        )

    def _job(self, name: Name) -> JobSpec:
        chance = self.chance
        retries = Retries(*(chance.choice([0, 1, 2]) for _ in range(3)))
        return JobSpec(
            name=name,
            runs_on="pinned",
            image=IMAGES[0],
            cpus=1,
            memory=64 * MIB,
            disk=None,
            script=f"#!/bin/sh\nexit {chance.randrange(1000)}\n",
            env=(("TOKEN", CANARY),),
            secrets=("TOKEN",),
            boot=120.0,
            silence=60.0,
            total=300.0,
            retries=retries,
            keep_on_failure=chance.choice([0.0, 0.0, 60.0]),
            priority=chance.choice([0, 0, 5]),
        )

    def script(self) -> Scripted:
        """How a job's script will go."""
        chance = self.chance
        lines = [f"line {number}\n" for number in range(chance.randrange(5))]
        said = tuple((chance.choice([0.0, 0.5, 20.0]), line.encode()) for line in lines)
        said += ((0.0, f"token {CANARY}\n".encode()),)
        code = chance.choices([0, 1, None], [6, 3, 1])[0]
        return Scripted(said, code, chance.choice([0.0, 1.0, 90.0]))


@cache
def _at(name: Name) -> SourceRef:
    return SourceRef(f"{name}.yaml", 1)
