"""The benchmark's own machinery, with two machines: what it is to measure happens, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

import bench
from bench import (
    agents,
    bare,
    chart,
    cold,
    crowd,
    images,
    jobs,
    keeper,
    libvirt,
    ours,
    passes,
    profile,
    repository,
    results,
    usage,
)
from bench.harness import Figure
from bench.keeper import Keeper
from tests.e2e.site import ROOT
from tests.waiting import eventually


def until(condition: Callable[[], object], what: str) -> None:
    asyncio.run(eventually(condition, what, 120.0))


SVG = "{http://www.w3.org/2000/svg}"
NO_LIBVIRT = pytest.mark.skipif(
    not libvirt.installed(), reason="libvirt is not installed: make bench brings it"
)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where all that a benchmark makes lies, with a short path, and open to `nobody`, who is libvirt's user for root.
    Neither a file nor a process of it is there afterwards: what is, fails the test, and is ended."""
    with tempfile.TemporaryDirectory(prefix="hf-") as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)
        left = []
        while found := processes_of(directory):
            left += found
            for one in found:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        assert left == []
        assert list(Path(directory).iterdir()) == []


def processes_of(directory: str) -> list[psutil.Process]:
    """Those that were told of something below the directory, and those that have it open, also when it has gone."""
    found = []
    for one in psutil.process_iter(["cmdline", "environ"]):
        told = [*(one.info["cmdline"] or []), *(one.info["environ"] or {}).values()]
        with suppress(OSError):
            told += [os.readlink(link) for link in Path(f"/proc/{one.pid}/fd").iterdir()]
        if any(f"{directory}/" in word for word in told):
            found.append(one)
    return found


@pytest.mark.qemu
@pytest.mark.timeout(400)
def test_every_contender_does_all_that_is_measured(place: Path) -> None:
    """Sabotage: a contender that forgets to answer one of the questions."""
    figures = list(crowd.figures({1: 1, 2: 2}, idle=0.1, of_libvirt={1: 1, 2: 2}))
    names = {(one.series, one.size) for one in figures}
    assert names == {
        (name, size)
        for what, (name, _) in crowd.NAMES.items()
        for size in ((2,) if what == "idle" else (1, 2))
    }
    keepers = {"bare QEMU", "libvirt", "holdfast"}
    for one in figures:
        left_out = set() if libvirt.installed() else {"libvirt"}
        left_out |= {"bare QEMU"} if one.unit != "ms" else set()
        assert set(one.samples) == keepers - left_out
        turns = 1 if one.size == 1 or one.series.startswith("idle") else 2
        asked = crowd.ASKED if one.series.startswith("status") else 1
        assert all(len(taken) == turns * asked for taken in one.samples.values()), one
        assert all(value >= 0 for taken in one.samples.values() for value in taken), one
        assert (one.limit is None) == (one.size == 1 and one.series != "all up"), one


@pytest.mark.qemu
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "kept", [bare.kept, pytest.param(libvirt.kept, marks=NO_LIBVIRT), ours.kept]
)
def test_what_breaks_off_leaves_nothing(
    place: Path, kept: Callable[[], AbstractContextManager[Keeper]]
) -> None:
    """Sabotage: let `Session.close` of libvirt end nothing but the daemons."""

    def broken_off() -> None:
        with kept() as keeper:
            keeper.up(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()


@pytest.mark.qemu
@pytest.mark.timeout(400)
def test_a_miss_can_be_profiled(place: Path) -> None:
    for what in ("up", "ask", "again", "down"):
        # So many that each takes Python long enough to be seen at 200 looks a second.
        [seconds, *lines] = crowd.profiled(what, 10)
        assert seconds.endswith("s in Python")
        assert lines, what


def assert_profiled(figure: Figure) -> None:
    """That it has a profile, or that this user may make none of itself, as where yama's `ptrace_scope` is 1."""
    assert figure.profile is not None
    [first, *_] = figure.profile()
    assert first.endswith("s in Python") or (os.geteuid() and "ermission" in first)


def test_passes_are_measured_with_and_without_a_tree(place: Path) -> None:
    """Every turn that is measured finds all of them at rest, or it says so."""
    same, changed = passes.figures(2, documents=5)
    assert [len(taken) for taken in same.samples.values()] == [2, 2]
    assert [len(taken) for taken in changed.samples.values()] == [2]
    for one in (same, changed):
        assert_profiled(one)
    assert [one.size for one in passes.growth(1, (3, 9))] == [3, 9]


@pytest.mark.qemu
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("part", "contenders"),
    [
        (
            lambda: [*jobs.figures(1), jobs.line(1, 2)],
            ["boot to login, holdfast", "boot to login, holdfast", "holdfast"],
        ),
        (
            lambda: [cold.status(1), cold.memory(1)],
            ["python -c pass, holdfast status", "python, idle agent"],
        ),
        (lambda: repository.figures(1, 30), ["git archive, holdfast", "holdfast", "holdfast"]),
        (
            lambda: list(usage.figures(1, 2, 0.1)),
            ["holdfast", "holdfast", "its script alone, holdfast"],
        ),
        (
            lambda: images.figures(1, 16 << 20),
            ["curl and zstd, holdfast", "holdfast", "curl and zstd, holdfast"],
        ),
    ],
    ids=["jobs", "cold", "repository", "usage", "images"],
)
def test_every_part_measures_all_of_its_contenders(
    place: Path, part: Callable[[], list[Figure]], contenders: list[str]
) -> None:
    """With their profiles, where there is one. Sabotage: a profile that is made of a directory that has gone."""
    figures = part()
    assert [", ".join(one.samples) for one in figures] == contenders
    for one in figures:
        assert one.verdict in ("met", "MISSED")
        assert all(taken and min(taken) >= 0 for taken in one.samples.values()), one
        if one.profile is not None:
            assert_profiled(one)


@pytest.mark.timeout(60)
def test_a_qemu_that_ends_at_once_ends_what_waits_for_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: ask it again and again."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\nexit 1\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with bare.kept() as keeper, pytest.raises(RuntimeError, match="qmp does not answer"):
        keeper.up(3)


@pytest.mark.timeout(60)
def test_what_is_waited_for_may_not_come(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: wait without an end."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "desired").mkdir()
        with agents.running(Path(root)) as agent:
            monkeypatch.setattr(agents, "PATIENCE", 0.1)
            with pytest.raises(RuntimeError, match=r"not done in 0\.1 s what is measured"):
                agent.until(lambda: False, 0.01)
    monkeypatch.setattr(keeper, "PATIENCE", 1.0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with pytest.raises(RuntimeError, match=f"after 1 s not at rest: {busy.pid}"):
                keeper.at_rest([busy.pid])
        finally:
            busy.kill()


@pytest.mark.qemu
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_is_cut_off_writes_nothing_down(place: Path, how: signal.Signals) -> None:
    """Sabotage: write what there is; let another one cut off the way out."""
    written = [Path(bench.__file__).with_name(name) for name in ("RESULTS.md", "results.svg")]
    before = [path.read_text() for path in written]
    words = [sys.executable, "-m", "bench"]
    whole = subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with whole:
        try:
            # It tries libvirt first.
            until(lambda: any(place.glob("hf-bench-*/state/instances/*")), "an agent starts one")
        finally:
            while whole.poll() is None:  # also while it clears up
                whole.send_signal(how)
                time.sleep(0.05)
        _, said = whole.communicate()
    assert whole.returncode == 1
    assert "cut off: bench/RESULTS.md stays as it was" in said
    assert [path.read_text() for path in written] == before


def test_what_fails_on_the_way_out_is_no_failure_to_measure() -> None:
    """Sabotage: go on with the next part."""
    program = """
import os, signal, sys
from bench import __main__ as bench

def cut_off():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise OSError("what it began is not to be ended")

bench.PARTS = {"first": cut_off, "second": lambda: []}
sys.argv[1:] = bench.PARTS
sys.exit(bench.main())
"""
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == "cut off: bench/RESULTS.md stays as it was\n"


def test_a_part_that_there_is_not_is_told() -> None:
    words = [sys.executable, "-m", "bench", "cold", "pases"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "no part is called pases: there are crowds, jobs, passes, " in told.stderr


def test_a_daemon_s_orphan_is_reaped_by_whom_libvirt_lives_below(tmp_path: Path) -> None:
    """Sabotage: make it no subreaper. Then they are the host's first process's, which may take seconds for it."""
    reaper = Path(libvirt.__file__).with_name("reaper.py")
    with subprocess.Popen(
        [sys.executable, "-I", reaper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None

        def asked(what: object) -> int:
            print(json.dumps(what), file=parent.stdin, flush=True)
            return int(parent.stdout.readline())  # type: ignore[union-attr]

        daemon = asked(["sleep", "600"])
        asked(
            [
                "sh",
                "-c",
                f"sleep 600 & echo $! > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/pid",
            ]
        )
        until((tmp_path / "pid").exists, "it has begun another")
        orphan = psutil.Process(int((tmp_path / "pid").read_text()))
        until(lambda: orphan.ppid() == parent.pid, "it is the reaper's")
        orphan.kill()
        until(lambda: not orphan.is_running(), "it is reaped")
        assert asked(daemon) == daemon
        assert not psutil.pid_exists(daemon)


def test_a_miss_is_written_down_with_its_profile() -> None:
    samples = {"bare QEMU": [10.0, 30.0, 20.0], "libvirt": [200.0], "holdfast": [41.0]}
    missed = Figure("destroy", "ms", samples, 40.0, "2 of the floor", profile=lambda: ["99 % in x"])
    met = Figure("start", "ms", samples, 50.0, "50 ms")
    shown = Figure("start of one", "ms", samples, None, "")
    page = results.written([missed, met, shown], "results.svg")
    assert (
        "| destroy | bare QEMU: 20.0 ms | 200 ms | 41.0 ms | 2.05 | 2 of the floor | MISSED |"
        in page
    )
    assert "| start | bare QEMU: 20.0 ms | 200 ms | 41.0 ms | 2.05 | 50 ms | met |" in page
    assert "### destroy\n" in page
    assert "    99 % in x\n" in page
    assert "### start" not in page
    assert "| start of one (ms) | bare QEMU | 20.0 | 10.0 | 30.0 | 1.00 | 3 |" in page
    assert not missed.met
    assert met.met


def test_the_chart_has_a_line_for_each_contender() -> None:
    figures = [
        Figure(
            f"up {size}",
            "ms",
            {"a": [1.0 * size], "b & c": [9.0 * size]},
            None,
            "",
            "up",
            size,
            "X",
        )
        for size in (1, 20, 200)
    ]
    drawn = ElementTree.fromstring(chart.drawn(figures))  # noqa: S314 - our own
    lines = drawn.findall(f".//{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
    heights = [[float(at.split(",")[1]) for at in one.attrib["points"].split()] for one in lines]
    assert all(one == sorted(one, reverse=True) for one in heights), "what is more stands higher"
    assert {"b & c", "up (ms)", "X", "200"} <= {text.text for text in drawn.iter(f"{SVG}text")}


def test_a_profile_tells_functions_with_and_without_what_they_call() -> None:
    """Of what everything is within, and of what is imported, none. Sabotage: count imports as their module's."""
    door = "<module> (/x/agent/__main__.py:1);_run (/x/agent/cli/run.py:7)"
    stacks = (
        f"{door};run (/x/agent/loop.py:9);plan (/x/agent/plan.py:3) 30\n"
        f"{door};run (/x/agent/loop.py:8);dumps (json/a.py:1) 5\n"
        f"{door};_load (<frozen importlib._bootstrap>:3);<module> (/x/state/ids.py:1) 5\n"
    )
    assert profile.summed(stacks) == [
        "0.20 s in Python",
        " 12 % within imports",
        " 87 % within run (agent/loop.py)",
        " 75 % within plan (agent/plan.py)",
        " 75 % in plan (agent/plan.py) alone",
        " 12 % in dumps (json/a.py) alone",
        " 12 % in <module> (state/ids.py) alone",
    ]
