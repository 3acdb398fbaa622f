"""Agents that are killed in every phase of a run: the next one goes on where the guest is, and there is one result."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import NO_RETRIES, Jobs, count
from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(600)]

LARGE = 8 << 20
"""Bytes that take seconds to get into a guest or out of it."""
Words = tuple[str, ...]
SCRIPT = "echo begun\nsleep 3\necho ended\nexit 4"


@pytest.fixture
def jobs(tiny: Site) -> Jobs:
    return Jobs(tiny)


@contextmanager
def killed(jobs: Jobs, *moments: Callable[[], object], words: Words = ()) -> Iterator[None]:
    """The block beside one more agent, after one was killed at each of these moments."""
    for there in moments:
        agent = jobs.site.start(*words)
        try:
            jobs.site.until(there, "the moment for the kill")
        finally:
            agent.kill()
        assert agent.wait(DEADLINE) < 0, "it ended by itself"
    with jobs.site.agent():
        yield


def has_one_result(jobs: Jobs) -> None:
    """What the script of `tests` wrote is in the log once, and its exit code is the run's."""
    run = jobs.ended("tests", RunPhase.FAILED, "ScriptFailed", 4)
    said = jobs.log("tests")
    assert (count(said, "begun"), count(said, "ended")) == (1, 1), said
    assert run.attempt == 1, said


def is_in(jobs: Jobs, phase: RunPhase) -> Callable[[], bool]:
    return lambda: [run.phase for run in jobs.runs("tests")] == [phase]


def test_while_the_run_waits(jobs: Jobs) -> None:
    jobs.write("first", "echo begun\nsleep 100000", "priority: 1", NO_RETRIES)
    jobs.write("tests", SCRIPT, NO_RETRIES)
    with killed(jobs, is_in(jobs, RunPhase.QUEUED), words=("--max-concurrency", "1")):
        jobs.phase("tests", RunPhase.FAILED)
        jobs.says("first", "begun")
        jobs.site.delete("first")
        jobs.phase("first", RunPhase.CANCELLED)
        has_one_result(jobs)


def test_as_soon_as_it_boots_and_while_its_kernel_does_and_as_soon_as_it_runs(jobs: Jobs) -> None:
    jobs.write("tests", SCRIPT, NO_RETRIES)
    moments = (
        is_in(jobs, RunPhase.BOOTING),
        lambda: "Linux version" in jobs.written("tests"),
        is_in(jobs, RunPhase.RUNNING),
    )
    with killed(jobs, *moments):
        has_one_result(jobs)
        assert jobs.log("tests").count("Linux version") == 1


def test_while_files_are_uploaded_and_while_artifacts_are_collected(jobs: Jobs) -> None:
    """Many files and large ones: under emulation that takes seconds."""
    site = jobs.site
    with (site.desired / "large").open("wb") as large:
        large.truncate(LARGE)
    site.write("small", "small\n")
    many = [f"{{path: /root/in/{number}, source: small}}" for number in range(200)]
    jobs.write(
        "tests",
        f'[ "$(ls /root/in | wc -l) $(stat -c %s /root/large)" = "200 {LARGE}" ] || exit 9\n{SCRIPT}',
        f"files: [{', '.join(many)}, {{path: /root/large, source: large}}]",
        "artifacts: [/root/large]",
        NO_RETRIES,
    )

    def uploads() -> bool:
        # Who knocks before anybody is there waits for an answer that comes late.
        consoles = [
            path.read_text("latin-1") for path in site.paths.instances.glob("*/console.log")
        ]
        if not any("holdfast-guest: ready" in text for text in consoles):
            return False
        under_way = site.call("ssh", "tests", "--", "ls /root/in/0").returncode == 0
        return under_way and is_in(jobs, RunPhase.BOOTING)()

    def collects() -> bool:
        parts = site.paths.runs.glob("*/artifacts/.*.part")
        return any(one.stat().st_size for one in parts) and is_in(jobs, RunPhase.RUNNING)()

    with killed(jobs, uploads, collects):
        has_one_result(jobs)
        [artifact] = jobs.runs("tests")[0].artifacts
        assert artifact.size == LARGE


def test_while_the_script_speaks(jobs: Jobs) -> None:
    """What it says while no agent is there is in the log too, in its order; whoever follows it reads it once."""
    said = "for n in $(seq 60); do echo line $n; sleep 0.1; done"
    jobs.write("tests", f"echo begun\n{said}\necho ended\nexit 4", NO_RETRIES)
    with ExitStack() as stack:
        followers: list[subprocess.Popen[bytes]] = []

        def speaks() -> bool:
            if jobs.runs("tests") and not followers:
                words = ("logs", "tests", "-f")
                followers.extend(stack.enter_context(jobs.site.open(*words)) for _ in range(3))
            return bool(followers) and "line 9\n" in jobs.written("tests")

        def speaks_on() -> bool:
            return "line 20\n" in jobs.written("tests")

        def is_about_to_end() -> bool:
            return "line 59\n" in jobs.written("tests")

        with killed(jobs, speaks, speaks_on, is_about_to_end):
            has_one_result(jobs)
            log = jobs.log("tests")
            lines = [line for line in log.splitlines() if line.startswith("line ")]
            assert lines == [f"line {number}" for number in range(1, 61)]
            for follower in followers:
                told, complaint = follower.communicate(timeout=DEADLINE)
                assert (told.decode(), complaint, follower.returncode) == (log, b"", 0)
