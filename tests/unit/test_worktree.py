"""A directory of documents that is a git work tree: which commit it is at, and whether it is as it was committed."""

from __future__ import annotations

import os
import shutil
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


def test_what_documents_name_counts_too(work: Path) -> None:
    """Sabotage: compare documents alone. `status` says that all is as committed while the user-data is another."""
    hosts = work / "hosts"
    job = "api: holdfast/v1\nkind: job\nname: j\nruns_on: tiny\nscript_file: shared/run.sh\n"
    files = "files: [{path: /root/in, source: big.bin}, {path: /root/gone, source: gone}]\n"
    write(hosts, {"shared/run.sh": "true\n", "big.bin": "1", "web.cfg": "#cloud-config\n"})
    write(hosts, {"web.yaml": vm("web", "user_data_file: web.cfg"), "job.yaml": job + files})
    commit(work)
    source = DirectorySource(hosts, host=HOST)
    assert told(source).dirty is False
    for path in ("shared/run.sh", "big.bin", "web.cfg"):
        before = (hosts / path).read_text()
        write(hosts, {path: before + "#"})
        assert told(source).dirty is True, path
        write(hosts, {path: before})
        assert told(source).dirty is False, path
    write(hosts, {"gone": "it is here"})
    assert told(source).dirty is True, "a file that the commit does not have"
    commit(work)
    assert told(source).dirty is False
    (hosts / "gone").unlink()
    assert told(source).dirty is True


def test_a_directory_that_the_commit_does_not_have_differs_from_it(work: Path) -> None:
    write(work / "other", {"images.yaml": MAP, "web.yaml": vm("web")})
    source = DirectorySource(work / "other", host=HOST)
    assert told(source).dirty is True
    commit(work)
    assert told(source).dirty is False


def test_a_git_that_failed_once_is_asked_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: remember that it was asked before it has answered. The commit is told when the next one is made."""
    first, real = git(work, "rev-parse", "HEAD"), shutil.which("git")
    ails = tmp_path / "ails"
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\n[ -e {ails} ] && exit 128\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    source = DirectorySource(work / "hosts", host=HOST)
    ails.touch()
    assert source.load(NOW).source.commit is None
    ails.unlink()
    assert source.load(NOW + 1).source.commit is None, "not with every look"
    ails.touch()
    assert source.load(NOW + 60).source.commit is None
    ails.unlink()
    assert source.load(NOW + 120).source.commit is None, "ever more seldom"
    found = source.load(NOW + 180).source
    assert (found.commit, found.dirty) == (first, False)
    ails.touch()
    assert source.load(NOW + 9999).source.commit == first, "what was read once is known"


def test_nothing_changed_is_the_same_answer(work: Path) -> None:
    source = DirectorySource(work / "hosts", host=HOST)
    before = source.load(NOW)
    assert source.load(NOW + 1) is before


@pytest.mark.parametrize(
    "how", ["packed", "detached", "linked", "linked from here", "by a link", "amended"]
)
def test_however_the_commit_is_named(work: Path, how: str, tmp_path: Path) -> None:
    source = DirectorySource(work / "hosts", host=HOST)
    told(source)
    match how:
        case "packed":
            git(work, "pack-refs", "--all")
            told(source)
            commit(work)
            git(work, "pack-refs", "--all")
        case "detached":
            git(work, "checkout", "-q", "--detach")
            told(source)
            commit(work)
        case "by a link":
            (tmp_path / "link").symlink_to(work / "hosts")
            source = DirectorySource(tmp_path / "link", host=HOST)
        case "linked" | "linked from here":
            git(work, "worktree", "add", "-q", str(tmp_path / "other"))
            if how == "linked from here":
                (tmp_path / "other" / ".git").write_text("gitdir: ../work/.git/worktrees/other\n")
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


def test_documents_of_a_repository_with_longer_ids_are_compared_with_nothing(work: Path) -> None:
    """Their ids are other ones. Sabotage: compare them all the same. Every work tree of SHA-256 then differs."""
    root = work.with_name("longer")
    root.mkdir()
    git(root, "init", "-q", "-b", "main", "--object-format=sha256")
    write(root, TREE)
    tip = commit(root)
    assert len(tip) == 64
    found = told(DirectorySource(root, host=HOST))
    assert (found.commit, found.dirty, found.error) == (tip, None, None)


def test_what_stands_in_for_a_commit_is_not_what_was_committed(work: Path) -> None:
    """git-replace(1). Sabotage: let git put it in the other's place."""
    source = DirectorySource(work / "hosts", host=HOST)
    first = git(work, "rev-parse", "HEAD")
    write(work / "hosts", {"web.yaml": vm("web", "cpus: 2")})
    second = commit(work)
    git(work, "replace", second, first)
    found = told(source)
    assert (found.commit, found.dirty) == (second, False)


WAYS = {
    "ext": {"remote.origin.url": "ext::{evil}", "protocol.ext.allow": "always"},
    "ssh": {"remote.origin.url": "ssh://nobody@127.0.0.1/x"},
    "file": {"remote.origin.url": "file:///", "remote.origin.uploadpack": "{evil}"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_repository_of_somebody_else_runs_nothing(work: Path, tmp_path: Path, way: str) -> None:
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
        **WAYS[way],
    }.items():
        git(work, "config", key, value.format(evil=evil))
    (work / ".gitattributes").write_text("* filter=x\n")
    tree = git(work, "rev-parse", "HEAD:hosts")
    (work / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    desired = DirectorySource(work / "hosts", host=HOST).load(LONG_AGO)
    assert list(desired.vms) == ["web"]
    assert not ran.exists()
