"""The room that is kept for what has to be recorded on a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from state import ballast
from state.ballast import Ballast

FULL = """
import os, sys
from contextlib import suppress
from pathlib import Path
from state.history import Event
from state.ledger import Ledger, LedgerUnwritable

root, kept = Path(sys.argv[1]), sys.argv[2] == "kept"

def fill():
    with suppress(OSError), (root / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))

def record(number):
    for at in range(number):
        with ledger.transaction() as change:
            change.event(Event(at=0.0, reason="Destroyed", message="x" * 200))

ledger = Ledger(root / "state.db", ballast=root / "ballast" if kept else None)
record(1)
assert (root / "ballast").exists() is kept
fill()
try:
    record(200)
except LedgerUnwritable:
    print("unwritable")
else:
    assert not (root / "ballast").exists()
    assert len(ledger.reader.events()) == 201
    (root / "filler").unlink()
    record(1)
    assert (root / "ballast").exists()
    print("recorded")
"""
"""On a file system of 80 MiB that somebody fills up."""


@pytest.mark.parametrize(("kept", "says"), [("kept", "recorded"), ("none", "unwritable")])
def test_a_full_disk_takes_what_is_to_be_recorded(tmp_path: Path, kept: str, says: str) -> None:
    """Sabotage: keep no ballast, as the second case does."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount -t tmpfs -o size=80m tmpfs "$1" && shift && exec "$@"',
         "sh", tmp_path, sys.executable, "-c", FULL, tmp_path, kept],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode and ("mount:" in done.stderr or "unshare:" in done.stderr):
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr}")
    assert (done.stdout, done.stderr) == (f"{says}\n", "")


def test_it_is_given_up_when_room_is_scarce_and_made_again_when_there_is_plenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ballast"
    one = Ballast(path)
    monkeypatch.setattr(ballast, "PLENTY", 1 << 60)
    one.adjust()
    assert not path.exists(), "there is not enough room for it"
    monkeypatch.setattr(ballast, "PLENTY", 0)
    one.adjust()
    assert path.stat().st_size == ballast.SIZE
    assert path.stat().st_blocks * 512 >= ballast.SIZE
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(ballast, "SCARCE", 1 << 60)
    one.adjust()
    assert not path.exists()


def test_a_directory_that_cannot_be_told_of_is_left_to_the_write(tmp_path: Path) -> None:
    Ballast(tmp_path / "gone" / "ballast").adjust()
    assert not (tmp_path / "gone").exists()
