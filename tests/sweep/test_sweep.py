"""A sample of the sweeps, each in a process of its own, which forks agents and must have no threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def sampled(what: str, number: int) -> None:
    words = [sys.executable, "-m", "tests.sweep", what, "--sample", str(number)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{number} points" in done.stdout


def test_an_agent_killed_at_any_line_of_its_code_is_made_good_by_the_next() -> None:
    """Sabotage: start QEMU before its row is written, or record a step before it is done."""
    sampled("lines", 200)


def test_any_write_sync_or_rename_may_fail() -> None:
    """Sabotage: take what could not be synced for done."""
    sampled("operations", 6)
