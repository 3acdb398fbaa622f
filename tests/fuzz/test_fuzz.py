"""What the fuzzer has found stays mended, and each of its targets holds for a few hundred inputs more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.site import ROOT
from tests.fuzz.targets import FOUND, TARGETS

BEGINNINGS = [
    (name, content)
    for name, target in TARGETS.items()
    for content in (*target.seeds, *(one.read_bytes() for one in sorted(FOUND.glob(f"{name}/*"))))
]


@pytest.mark.parametrize(("name", "content"), BEGINNINGS)
def test_what_was_found_once_is_not_found_again(name: str, content: bytes) -> None:
    """Sabotage: let ValueError or AssertionError of qemu.qmp through, or do not cut what a monitor says."""
    TARGETS[name].run(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_the_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", name]
    done = subprocess.run(
        [*words, "--runs", "400", "--seed", "1", "--corpus", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "stat::number_of_executed_units: 400" in done.stderr
