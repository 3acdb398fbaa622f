"""What lies in the clone of an agent, and what of it outlasts a power cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gits import git
from tests.trees import vm
from tests.unit.test_git_source import FETCHES, Place, names


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_clone_has_the_history_since_its_beginning_and_nothing_beside_it(place: Place) -> None:
    """Sabotage: fetch the whole history, its tags, or what else there is."""
    repository = place.repository
    repository.commit({"web.yaml": vm("web", "cpus: 2")})
    git(repository.work, "tag", "-a", "-m", "of it", "v1")
    git(repository.work, "push", "-q", "origin", "v1", "HEAD:other")
    place.fetched()
    clone = place.clone.git.directory
    assert git(clone, "rev-list", "--all", "--count") == "1"
    second = repository.commit({"web.yaml": None})
    place.fetched()
    assert git(clone, "rev-list", "--all", "--count") == "2"
    refs = git(clone, "for-each-ref", "--format=%(objectname) %(refname)").splitlines()
    assert refs == [f"{second} refs/holdfast/good", f"{second} refs/holdfast/tip"]
    shutil.rmtree(clone)
    place.fetched()
    assert git(clone, "rev-list", "--all", "--count") == "1", "also when it is made anew"
    git(repository.work, "reset", "-q", "--hard", "HEAD~1")
    refused = repository.commit({"db.yaml": None})
    place.fetched()
    assert git(clone, "rev-parse", "refs/holdfast/good") == second
    assert git(clone, "rev-parse", "refs/holdfast/tip") == refused
    assert not [*clone.glob("FETCH_HEAD")]


def test_what_a_crash_left_beside_a_clone_is_cleared_away(place: Place) -> None:
    place.fetched()
    beside = place.clone.git.directory.parent
    (beside / ".record.json.0123abcd").write_text("{")
    for name in (".repo.git.part", ".old.git.part"):
        (beside / name / "objects").mkdir(parents=True)
    place.agent()
    for _ in range(2):
        place.fetched()
        assert sorted(os.listdir(beside)) == ["lock", "lock.git", "record.json", "repo.git"]
        place.clone.suspect()  # it is made anew then


def test_a_lock_that_a_killed_git_left_costs_no_clone(place: Place) -> None:
    """Sabotage: leave it there. The next fetch fails of it, and all is fetched anew."""
    place.fetched()
    clone = place.clone.git.directory
    before = clone.stat().st_ino
    for lock in ("shallow.lock", "refs/holdfast/tip.lock"):
        (clone / lock).touch()
    assert names(place.after({"web.yaml": None})) == ["db"]
    assert clone.stat().st_ino == before


def test_what_is_known_of_a_repository_is_replaced_whole_and_only_where_it_differs(
    place: Place,
) -> None:
    """Sabotage: write into the file that is there. A crash then leaves half of it."""
    place.fetched()
    path = place.clone.git.directory.with_name("record.json")
    with path.open("rb") as before:
        place.fetched()
        assert os.fstat(before.fileno()).st_nlink == 1, "it is as it was"
        tip = place.repository.commit({"web.yaml": None})
        place.fetched()
        assert json.loads(before.read())["commit"] == place.first
    assert json.loads(path.read_bytes())["commit"] == tip
    assert path.stat().st_mode & 0o777 == 0o600


TRACE = ("strace", "-f", "-y", "-qq", "-e", "signal=none", "-e", "trace=fsync,rename,renameat")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows what is written when")
def test_a_commit_is_on_disk_before_it_is_said_to_be_followed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: leave the disk to itself, or to the operator's configuration. After a power cut the record then names a
    commit that is not there, or is not there itself."""
    config, trace = tmp_path / "gitconfig", tmp_path / "trace"
    config.write_text("[core]\n\tfsync = none\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    command = [*TRACE, "-o", str(trace), sys.executable, "-c", FETCHES]
    told = subprocess.run(
        [*command, str(place.paths.root), place.repository.url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    if told.returncode != 0:
        pytest.skip(f"nothing can be traced here: {told.stderr.decode()[-200:]}")
    clone = place.clone.git.directory
    lines = iter(trace.read_text().splitlines())
    for call, what in (
        ("fsync(", f"<{clone}/objects/pack/tmp_pack_"),
        ("fsync(", f"<{clone}/refs/holdfast/good.lock>"),
        ("fsync(", f"<{clone.parent}/.record.json."),
        ("rename", f'"{clone.parent}/record.json"'),
        ("fsync(", f"<{clone.parent}>"),
    ):
        assert any(call in line and what in line for line in lines), what
    assert names(place.agent().load(0.0)) == ["db", "web"]
