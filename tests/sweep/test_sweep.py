"""A sample of the sweeps, each in a process of its own, which forks agents and must have no threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
FULL = """
from tests.sweep.engine import Told, inhabited_ground
from tests.sweep.operations import Operation, fail_at

found = Told()
with inhabited_ground() as here:
    fail_at(here, Operation("write", 1, "ENOSPC"), found)
print(found.violations)
"""


def sampled(what: str, number: int) -> None:
    words = [sys.executable, "-m", "tests.sweep", what, "--sample", str(number)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{number} points" in done.stdout


def test_an_agent_killed_at_any_line_of_its_code_is_made_good_by_the_next() -> None:
    """Sabotage: start QEMU before its row is written, or record a step before it is done."""
    sampled("lines", 100)


def test_a_fetch_killed_at_any_moment_leaves_nothing_half_made_that_counts() -> None:
    """Sabotage: fill the file under its own name, or put down that it counts before it does."""
    sampled("fetches", 40)


def test_any_write_sync_or_rename_may_fail() -> None:
    """Sabotage: take what could not be synced for done."""
    sampled("operations", 6)


def test_a_fetch_that_finds_room_for_the_image_and_not_for_its_record_comes_to_an_end() -> None:
    """Sabotage: begin it anew whenever something was removed, though that was what it had left behind itself."""
    words = [sys.executable, "-c", FULL]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
