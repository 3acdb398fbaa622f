"""What `stop` makes of a state directory whose ledger is no more, and of one that is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.paths import StatePaths
from agent.statedir import StateDirectory
from tests.unit.test_down import ROOT


def stop(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", "stop", *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"no database\n" * 1000])
def test_a_ledger_that_cannot_be_read_keeps_nobody_from_powering_vms_down(
    tmp_path: Path, content: bytes | None
) -> None:
    """Sabotage: read the ledger before anything else. When the host goes down, its VMs are then killed."""
    paths = StatePaths(tmp_path / "state")
    StateDirectory(paths.root).close()
    if content is not None:
        paths.database.write_bytes(content)
    told = stop("--on-stop", "shutdown", "--state", paths.root)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == "no agent was running\nno VM runs\n"


@pytest.mark.parametrize("made", [False, True])
def test_what_is_no_state_directory_is_left_as_it_is(tmp_path: Path, made: bool) -> None:
    root = tmp_path / "state"
    if made:
        root.mkdir(mode=0o700)
    told = stop("--on-stop", "shutdown", "--state", root)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"holdfast: reading the state directory {root}: ")
    assert root.exists() == made
    assert not (made and list(root.iterdir()))
