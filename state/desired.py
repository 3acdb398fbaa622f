"""What is wanted: the readable part of a source at one moment, and what about it could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from state.ids import Name
from state.spec.resolved import ImageSpec, VmSpec
from state.spec.resolved_job import JobSpec


@dataclass(frozen=True, slots=True)
class SourceRef:
    """Where a document starts: `file` relative to the tree's root, `line` from 1, `commit` where there is one."""

    file: str
    line: int
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class WantedVm:
    """One vm that the source asks for on this host."""

    spec: VmSpec
    source: SourceRef


@dataclass(frozen=True, slots=True)
class WantedJob:
    """One job that the source asks to be run on this host, once for each spec that its name has."""

    spec: JobSpec
    source: SourceRef


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the source that cannot be used just now.

    `name` is the vm or job that it certainly concerns, so that only that one is held; None where the text cannot tell,
    so that it may own any name that is absent. `line` and `column` count from 1; 0 where there is no such place.
    """

    file: str
    line: int
    column: int
    message: str
    name: Name | None = None
    kind: str | None = None
    reason: str = "InvalidDocument"
    """A word for programs."""
    told: bool = False
    """Whether what is wrong stands elsewhere and is a problem of its own there."""

    @property
    def place(self) -> str:
        """The file, and where in it as far as that can be said."""
        return self.file if not self.line else f"{self.file}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that works but that its author would want to know, such as an image without a digest."""

    where: SourceRef
    message: str


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Which source this is. `kind` is `directory` or `git`; `error` says why it could not be read, or not be asked,
    at all. `commit`: the one that is followed, or that a directory is a work tree of; `dirty`: whether documents of
    that differ from it. `refused`: what the branch names and why that is not followed; `pending`: whether it is
    still to be asked for the first time."""

    kind: Literal["directory", "git"]
    location: str
    commit: str | None = None
    error: str | None = None
    refused: str | None = None
    pending: bool = False
    dirty: bool | None = None


@dataclass(frozen=True)
class Desired:
    """A source as it was read.

    A name that is in `vms` or `jobs`, never in both, is wanted; one that a problem names is held; any other is absent.
    Absence counts only where `unproven` is None: otherwise it says why nothing may be deleted (a missing or emptied
    tree, a file that cannot tell its names). `look_again`: in so many seconds the source must be read again though no
    file changes by then, because it says something now that is only believed when it stays so. `labels`: what image
    each label and alias leads to, by its label; `images`: those by theirs, wanted or not.
    """

    source: SourceInfo
    vms: Mapping[Name, WantedVm] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    advice: tuple[Advice, ...] = ()
    unproven: str | None = None
    look_again: float | None = None
    jobs: Mapping[Name, WantedJob] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, ImageSpec] = field(default_factory=dict)

    @cached_property
    def needed_images(self) -> frozenset[ImageSpec]:
        """Those that a vm or a job asks for."""
        of_vms = {vm.spec.image for vm in self.vms.values()}
        return frozenset(of_vms | {job.spec.image for job in self.jobs.values()})
