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
Each figure alternates its contenders in one run on one machine; a row has medians, the table below all of it and how
often. libvirt takes minutes for two hundred, and has one turn with them. The floor
is what the row names: for VMs, QEMUs that a script starts by hand with the devices that holdfast gives them, kills, and
asks over raw sockets. libvirt is `libvirtd` and `virtlogd` of a user session, asked by four threads at once: without
cgroups, namespaces, a user for each guest, and a network, which makes it quicker than the system's. holdfast is the
agent as anybody runs it: confinement, checks, a ledger that is on disk. Guests have 32 MiB and an overlay, and are
paused before their first instruction, under TCG. `status` and the passes have nothing beside them but what the row
names, nor have what an agent takes while it rests, jobs in memory, and commits. Agents that are asked for one VM have
seen a change within the last minute; after a longer rest the next one is noticed up to 40 ms later. A commit is told of
with `holdfast reconcile`, as by a hook; without, an agent asks every 30 s. Numbers are of this machine; ratios travel
better.
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
    yield f"Made by `make bench` of {_said('git', 'log', '-1', '--format=commit %h of %cs')}, on"
    yield f"{os.cpu_count()} processors ({model}), {memory:.0f} GiB, {platform.platform()},"
    yield f"{_said('qemu-system-x86_64', '--version')}, {_said('/usr/sbin/libvirtd', '--version')},"
    yield f"Python {platform.python_version()}. Load average at the end: {os.getloadavg()[0]:.1f}."


def _said(*words: str) -> str:
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"no {words[0]}"
    return told.splitlines()[0]


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
    for one in missed:
        yield f"### {one.name}"
        yield ""
        if one.note:
            yield from (one.note, "")
        if one.profile is None:
            yield "There is no profile of it."
        else:
            yield "Where the agent is in Python, as py-spy sees it from outside:"
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
