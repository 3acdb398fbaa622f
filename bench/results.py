"""Writes down what was measured: every figure with its bar, the machine that it is of, and why a bar was missed."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.harness import Figure, Profile, short

_LIBVIRT = "libvirt"
_OF = """\
Each figure gives its contenders turns in one run on one machine, always in the order floor, libvirt, holdfast; a row
has medians, the table below all of it and how often. Before the crowds, each starts and ends one VM; of what is over
in seconds, a first turn is thrown away, but that of a commit's first load. What is idle is watched once, for a minute.
Where a row has no floor, nothing else was found that does the same.

**The floor** is what the row names. For VMs: QEMUs that a script starts by hand, as many at a time as there are
processors, each with an overlay of `qemu-img create` (holdfast writes overlays itself) and the devices that holdfast
gives it, one monitor, and no sandbox; it asks them over raw sockets and kills them. For jobs: the same guest started
by hand until it lets somebody in over SSH. For the page: its script alone.

**libvirt** is `libvirtd` and `virtlogd` of a user session, asked by four threads at once to start and to end VMs, and
in one call for the statistics of all: without cgroups, namespaces, a user for each guest, and a network, which makes
it quicker than the system's. It has fewer turns with many VMs, since it takes a minute for one.

**holdfast** is the agent with confinement, checks, and a ledger that is on disk, told to destroy two hundred at once
(`--max-destroy`). While VMs come up and where the row says so it measures nothing (`--metrics-interval 0`); a new
manager, and what is called measured, does so every 10 s as by default. *Status and block statistics* are what its
meter asks for in each of these, on connections that are there, timed without an agent.

**Up** means that every monitor has answered and the ledger says so: guests have 32 MiB and an empty overlay, and are
paused before their first instruction, under TCG. Agents that are asked for one VM have seen a change within the last
minute; after a longer rest the next one is noticed up to 40 ms later. A commit is told of with `holdfast reconcile`,
as by a hook; without, an agent asks every 30 s. Numbers are of this machine; ratios travel better.
"""


def written(figures: Sequence[Figure], chart: str, lacking: Mapping[str, str] | None = None) -> str:
    """The page, in Markdown. `chart` is the name of the file beside it that has the chart; `lacking`: what could not be
    measured, and why."""
    lines = ["# What it costs, beside bare QEMU and libvirt", "", *_machine(), "", _OF]
    lines += [f"![How the figures grow with the number of VMs and names]({chart})", ""]
    lines += [f"{what} could not be measured: {why}\n" for what, why in (lacking or {}).items()]
    lines += [*_bars(figures), "", *_missed(figures), "## All of it", "", *_table(figures), ""]
    return "\n".join(lines)


def _machine() -> Iterator[str]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpus if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    of = _said("git", "log", "-1", "--format=commit %h of %cs") + (
        " and changes" if changed else ""
    )
    yield f"Made by `make bench` of {of}, on"
    yield f"{os.cpu_count()} processors ({model}), {memory:.0f} GiB, {platform.platform()},"
    yield f"{_said('qemu-system-x86_64', '--version')}, {_said('/usr/sbin/libvirtd', '--version')},"
    yield f"Python {platform.python_version()}. Load average at the end: {os.getloadavg()[0]:.1f}."


def _said(*words: str) -> str:
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"no {words[0]}"
    return next(iter(told.splitlines()), "")


def _bars(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| figure | floor | libvirt | holdfast | to the floor | must reach | |"
    yield "|---|---|---|---|---|---|---|"
    for one in figures:
        if one.limit is None:
            continue
        first, last = next(iter(one.samples)), list(one.samples)[-1]
        has_floor = first not in (last, _LIBVIRT)
        floor = f"{first}: {_number(one, first)}" if has_floor else ""
        libvirt = _number(one, _LIBVIRT) if _LIBVIRT in one.samples else ""
        ratio = f"{one.ratio(last):.2f}" if has_floor else ""
        cells = (one.name, floor, libvirt, _number(one, last), ratio, one.rule, one.verdict)
        yield f"| {' | '.join(cells)} |"


def _number(figure: Figure, who: str) -> str:
    return f"{short(figure.medians[who])} {figure.unit}"


def _missed(figures: Sequence[Figure]) -> Iterator[str]:
    missed = [one for one in figures if not one.met]
    if missed:
        yield "## Missed"
        yield ""
        yield "Below each, in our words, what stands in the way, and a profile of another turn in this run."
        yield ""
    for one in missed:
        yield f"### {one.name}"
        yield ""
        if one.note:
            yield from (one.note, "")
        if one.profile is None:
            yield "There is no profile of it."
        else:
            yield "Where it is in Python, as py-spy sees it from outside:"
            yield ""
            yield from (f"    {line}" for line in _profiled(one.profile))
        yield ""


def _profiled(profile: Profile) -> list[str]:
    try:
        return profile()
    except Exception as error:  # noqa: BLE001 - the figures are worth having without
        return [f"there is none: {type(error).__name__}: {error}"]


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| figure | contender | median | least | most | ratio | n |"
    yield "|---|---|---|---|---|---|---|"
    for one in figures:
        for who, taken in one.samples.items():
            numbers = (one.medians[who], min(taken), max(taken))
            cells = " | ".join(map(short, numbers))
            ratio = f"{one.ratio(who):.2f}" if next(iter(one.samples)) != _LIBVIRT else ""
            yield f"| {one.name} ({one.unit}) | {who} | {cells} | {ratio} | {len(taken)} |"
