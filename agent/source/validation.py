"""Documents alone: what is wrong with files and directories, without state, without QEMU, and for any host.

A directory is a tree and is checked as the agent would read it. Files are taken together as parts of one tree whose
rest is not shown: what they say alone and to each other is checked, but their labels are only looked up where an image
map is among them or given beside them, since theirs may lie in the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from agent.source.contents import Contents
from agent.source.directory import DirectoryTree
from agent.source.documents import Reading
from agent.source.given import GivenFiles
from agent.source.tree import Moved, shown
from state.desired import Advice, Problem, SourceRef

_SOME_HOST = "any"


@dataclass(frozen=True, slots=True)
class Options:
    """`host` None: for every host that the documents tell apart."""

    host: str | None = None
    images_file: Path | None = None
    image_roots: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Reach:
    """A document and the patterns of the hosts that it is for; `here`: whether the host that was asked about is one of
    them, None where none was."""

    where: SourceRef
    kind: str | None
    name: str | None
    hosts: tuple[str, ...]
    here: bool | None


@dataclass(slots=True)
class Report:
    """How many documents were read, which hosts they reach, what is wrong with them and what is worth knowing; files
    are named as they were given."""

    documents: int = 0
    reaches: list[Reach] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Advice] = field(default_factory=list)


def validate(paths: Sequence[Path], options: Options, now: float) -> Report:
    """What is wrong with the documents at `paths`, which exist. `now` is Unix time."""
    report = Report()
    directories = [path for path in paths if path.is_dir()]
    for directory in directories:
        contents = Contents(
            DirectoryTree(directory),
            images_file=options.images_file,
            image_roots=options.image_roots,
            anywhere=True,
        )
        _check(contents, directory, options, now, report)
    covered = [os.path.realpath(directory) for directory in directories]
    files = [
        Path(os.path.abspath(path))
        for path in paths
        if not path.is_dir() and not _is_covered(path, covered)
    ]
    if files:
        root = _common_root(files)
        relative = [os.path.relpath(path, root) for path in files]
        contents = Contents(
            GivenFiles(root, relative),
            images_file=options.images_file,
            image_roots=options.image_roots,
            anywhere=True,
        )
        prefix = Path() if root == Path.cwd() else root
        _check(contents, prefix, options, now, report, whole=False)
    report.problems = sorted(set(report.problems), key=_key)
    report.warnings = list(dict.fromkeys(report.warnings))
    return report


def _is_covered(path: Path, directories: Iterable[str]) -> bool:
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, directory]) == directory for directory in directories)


def _common_root(files: Sequence[Path]) -> Path:
    """The current directory where all files lie below it, else the nearest directory that holds them all."""
    here = Path.cwd()
    if all(path.is_relative_to(here) for path in files):
        return here
    return Path(os.path.commonpath([path.parent for path in files]))


def _check(  # noqa: PLR0913
    contents: Contents,
    prefix: Path,
    options: Options,
    now: float,
    report: Report,
    *,
    whole: bool = True,
) -> None:
    try:
        contents.refresh(now)
    except Moved:
        report.problems.append(Problem(shown(str(prefix)), 0, 0, "keeps changing while it is read"))
        return
    readings = (*contents.readings, *contents.outside)
    report.documents += len(readings)
    problems = {_key(problem): problem for problem in contents.look.problems}
    advice = dict.fromkeys(contents.look.advice)
    for host in _hosts(readings) if options.host is None else [options.host]:
        found = contents.assembler(host).assemble(contents.readings, contents.outside, whole=whole)
        advice |= dict.fromkeys(found.advice)
        for problem in found.problems:
            if problem.told:
                continue
            if problem.name is not None or _key(problem) not in problems:
                problems[_key(problem)] = problem
    if whole and not readings and not problems:
        nothing = Problem(".", 0, 0, "there are no documents (an agent would hold every name)")
        problems[_key(nothing)] = nothing
    outside = {reading.ref.file for reading in contents.outside}
    report.reaches += [
        replace(one, where=replace(one.where, file=_path(prefix, one.where.file, outside)))
        for one in _reaches(contents, readings, options.host)
    ]
    for problem in problems.values():
        file = _path(prefix, problem.file, outside)
        report.problems.append(replace(problem, file=file))
    for one in advice:
        file = _path(prefix, one.where.file, outside)
        report.warnings.append(replace(one, where=replace(one.where, file=file)))


def _reaches(contents: Contents, readings: Iterable[Reading], host: str | None) -> Iterator[Reach]:
    asked = None if host is None else contents.assembler(host)
    for one in readings:
        if one.hosts is not None:
            here = None if asked is None else asked.is_mine(one)
            yield Reach(one.ref, one.kind, one.name, one.hosts, here)


def _path(prefix: Path, file: str, outside: set[str]) -> str:
    """A file of the tree as the one who named the tree would name it."""
    if file in outside:
        return file
    top = shown(str(prefix))
    return top if file == "." else file if top == "." else os.path.join(top, file)


def _hosts(readings: Sequence[Reading]) -> list[str]:
    """One host for each different set of documents that a host could have, as far as single patterns tell."""
    patterns = sorted({pattern for one in readings for pattern in one.hosts or ()} | {"*"})
    hosts: dict[frozenset[str], str] = {}
    for pattern in patterns:
        host = re.sub(
            r"\[(!?)([^\]])[^\]]*\]", lambda set_: set_[2] if not set_[1] else "~", pattern
        )
        host = host.replace("*", _SOME_HOST).replace("?", _SOME_HOST[0])
        taken = frozenset(other for other in patterns if fnmatchcase(host, other))
        hosts.setdefault(taken, host)
    return list(hosts.values())


def _key(problem: Problem) -> tuple[str, int, int, str]:
    return problem.file, problem.line, problem.column, problem.message
