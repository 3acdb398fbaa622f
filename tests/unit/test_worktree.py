"""A directory of documents that is a git work tree: which commit it is at, and whether it is as it was committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from state.desired import SourceInfo
from tests.gits import git
from tests.trees import HOST, LONG_AGO, MAP, NOW, vm, write

TREE = {"images.yaml": MAP, "web.yaml": vm("web"), "notes.txt": "x"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    write(root / "hosts", TREE)
    commit(root)
    return root


def commit(root: Path) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "a change")
    return git(root, "rev-parse", "HEAD")


def told(source: DirectorySource) -> SourceInfo:
    return source.load(NOW).source


def test_the_commit_is_told_and_whether_documents_differ(work: Path) -> None:
    source = DirectorySource(work / "hosts", host=HOST)
    first = git(work, "rev-parse", "HEAD")
    found = told(source)
    assert (found.kind, found.commit, found.dirty, found.error) == ("directory", first, False, None)
    write(work / "hosts", {"notes.txt": "no document"})
    assert told(source).dirty is False
    write(work / "hosts", {"web.yaml": vm("web", "cpus: 2")})
    assert (told(source).commit, told(source).dirty) == (first, True)
    second = commit(work)
    assert (told(source).commit, told(source).dirty) == (second, False)
    write(work / "hosts", {"new.yaml": vm("new")})
    assert told(source).dirty is True
    (work / "hosts" / "new.yaml").unlink()
    assert told(source).dirty is False
    (work / "hosts" / "web.yaml").unlink()
    assert told(source).dirty is True


def test_nothing_changed_is_the_same_answer(work: Path) -> None:
    source = DirectorySource(work / "hosts", host=HOST)
    before = source.load(NOW)
    assert source.load(NOW + 1) is before


@pytest.mark.parametrize("how", ["packed", "detached", "linked", "amended"])
def test_however_the_commit_is_named(work: Path, how: str, tmp_path: Path) -> None:
    source = DirectorySource(work / "hosts", host=HOST)
    told(source)
    match how:
        case "packed":
            git(work, "pack-refs", "--all")
        case "detached":
            git(work, "checkout", "-q", "--detach")
            commit(work)
        case "linked":
            git(work, "worktree", "add", "-q", str(tmp_path / "other"))
            work = tmp_path / "other"
            source = DirectorySource(work / "hosts", host=HOST)
            told(source)
            commit(work)
        case _:
            git(work, "commit", "-q", "--amend", "-m", "another")
    found = told(source)
    assert (found.commit, found.dirty) == (git(work, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("how", ["none", "no commit", "broken", "elsewhere"])
def test_a_directory_without_a_readable_commit_is_a_directory(tmp_path: Path, how: str) -> None:
    root = tmp_path / "work"
    write(root, {"images.yaml": MAP, "web.yaml": vm("web")})
    match how:
        case "no commit":
            git(root, "init", "-q", "-b", "main")
        case "broken":
            (root / ".git").mkdir()
        case "elsewhere":
            (root / ".git").write_text("gitdir: /nowhere\n")
        case _:
            pass
    desired = DirectorySource(root, host=HOST).load(NOW)
    assert (list(desired.vms), desired.problems) == (["web"], ())
    assert (desired.source.commit, desired.source.dirty) == (None, None)


def test_a_repository_of_somebody_else_runs_nothing(work: Path, tmp_path: Path) -> None:
    """A missing object of a partial clone is fetched by whatever the repository's own configuration says."""
    ran = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {ran}\n")
    evil.chmod(0o755)
    for key, value in {
        "core.fsmonitor": str(evil),
        "core.hooksPath": str(tmp_path),
        "core.sshCommand": str(evil),
        "filter.x.clean": str(evil),
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::{evil}",
        "protocol.ext.allow": "always",
    }.items():
        git(work, "config", key, value)
    (work / ".gitattributes").write_text("* filter=x\n")
    tree = git(work, "rev-parse", "HEAD:hosts")
    (work / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    desired = DirectorySource(work / "hosts", host=HOST).load(LONG_AGO)
    assert list(desired.vms) == ["web"]
    assert not ran.exists()
