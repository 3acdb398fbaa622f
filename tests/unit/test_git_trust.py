"""Whose commits are followed. Keys, signatures and what verifies them are real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import Blocked
from agent.source.git.trust import Signers
from tests.gits import Repository, git
from tests.trees import MAP, vm
from tests.unit.test_git_source import Place, names


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Somebody:
    """A person with an SSH key, who signs commits of a repository from now on."""

    def __init__(self, root: Path, name: str) -> None:
        self.key = root / f"{name}-key"
        self.name = name
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.key)]
        subprocess.run(make, check=True, capture_output=True)

    def line(self, options: str = "") -> str:
        public = self.key.with_suffix(".pub").read_text()
        return f"{self.name}@example.org {options}{public}"

    def signs(self, repository: Repository) -> None:
        git(repository.work, "config", "gpg.format", "ssh")
        git(repository.work, "config", "user.signingKey", str(self.key))


def merges_the_side(repository: Repository) -> None:
    git(repository.work, "merge", "-q", "-S", "-m", "merged", "side")
    git(repository.work, "push", "-q", "origin", "HEAD:main")


def signed_by_nothing(repository: Repository, kind: str, message: str = "") -> str:
    """A commit with a signature that no program has made; it is checked out, and not pushed."""
    body = repository.commit_only({"x.yaml": vm("x")})
    head, _, said = git(repository.work, "cat-file", "commit", body).partition("\n\n")
    head, _, _ = head.partition("\ngpgsig ")
    block = f"-----BEGIN {kind}-----\n \n nothing\n -----END {kind}-----"
    made = f"{head}\ngpgsig {block}\n\n{said}{message}\n"
    words = ("hash-object", "-t", "commit", "-w", "--stdin")
    forged = git(repository.work, *words, stdin=made.encode())
    git(repository.work, "reset", "-q", "--hard", forged)
    return forged


def listed(root: Path, *lines: str) -> Signers:
    file = root / "allowed_signers"
    file.write_text("".join(lines))
    return Signers(file)


def test_commits_of_those_who_are_listed_are_followed(place: Place, tmp_path: Path) -> None:
    alice, bob = Somebody(tmp_path, "alice"), Somebody(tmp_path, "bob")
    alice.signs(place.repository)
    place.repository.commit({"web.yaml": vm("web", "cpus: 2")}, "-S")
    place.agent(listed(tmp_path, alice.line(), bob.line()))
    assert names(place.fetched()) == ["db", "web"]
    place.repository.commit_only({"a.yaml": vm("a")}, "-S")
    bob.signs(place.repository)
    tip = place.repository.commit({"b.yaml": vm("b")}, "-S")
    desired = place.fetched()
    assert names(desired) == ["a", "b", "db", "web"]
    assert desired.source.commit == tip


@pytest.mark.parametrize("wrong", ["unsigned", "a stranger", "expired", "forged"])
def test_one_commit_in_the_middle_is_enough_to_be_refused(
    place: Place, tmp_path: Path, wrong: str
) -> None:
    alice, mallory = Somebody(tmp_path, "alice"), Somebody(tmp_path, "mallory")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    old = mallory.line('valid-before="20200101" ') if wrong == "expired" else ""
    place.agent(listed(tmp_path, alice.line(), old))
    assert place.fetched().source.commit == good
    why = {
        "unsigned": "is not signed",
        "a stranger": f"is signed by somebody who is not listed in {tmp_path}/allowed_signers, or not for its date",
        "expired": f"is signed by somebody who is not listed in {tmp_path}/allowed_signers, or not for its date",
        "forged": "has a signature that does not fit it",
    }[wrong]
    match wrong:
        case "unsigned":
            bad = place.repository.commit_only({"x.yaml": vm("x")})
        case "forged":
            signed = place.repository.commit_only({"x.yaml": vm("x")}, "-S")
            body = git(place.repository.work, "cat-file", "commit", signed)
            made = body.replace("a change", "another") + "\n"
            command = ("hash-object", "-t", "commit", "-w", "--stdin")
            bad = git(place.repository.work, *command, stdin=made.encode())
            git(place.repository.work, "reset", "-q", "--hard", bad)
        case _:
            mallory.signs(place.repository)
            bad = place.repository.commit_only({"x.yaml": vm("x")}, "-S")
            alice.signs(place.repository)
    place.repository.commit({"y.yaml": vm("y")}, "-S")
    for _ in range(2):
        desired = place.fetched()
        assert desired.source.commit == good
        assert names(desired) == ["db", "web"]
        assert desired.source.refused == f"commit {bad[:12]} {why}"
    assert place.source.approvable is None
    with pytest.raises(Blocked, match="no approval makes up for that"):
        place.source.approve(place.repository.head)
    # Whoever may sign takes it out of the history.
    git(place.repository.work, "reset", "-q", "--hard", good)
    mended = place.repository.commit({"y.yaml": vm("y")}, "-S")
    desired = place.fetched()
    assert (desired.source.commit, desired.source.refused) == (mended, None)


def test_somebody_who_is_listed_later_is_followed_then(place: Place, tmp_path: Path) -> None:
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    tip = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, Somebody(tmp_path, "bob").line()))
    assert place.fetched().source.refused is not None
    listed(tmp_path, alice.line())
    desired = place.fetched()
    assert (desired.source.commit, desired.source.refused) == (tip, None)


def test_the_side_of_a_merge_is_looked_at_too(place: Place, tmp_path: Path) -> None:
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    work = place.repository.work
    git(work, "checkout", "-q", "-b", "side")
    bad = place.repository.commit_only({"x.yaml": vm("x")})
    git(work, "checkout", "-q", "main")
    place.repository.commit_only({"y.yaml": vm("y")}, "-S")
    merges_the_side(place.repository)
    desired = place.fetched()
    assert desired.source.commit == good
    assert desired.source.refused == f"commit {bad[:12]} is not signed"


def test_a_side_that_began_before_the_first_commit_that_is_followed_may_be_merged(
    place: Place, tmp_path: Path
) -> None:
    """Sabotage: take what came before the border of the clone for new. Its commits were never signed."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    work = place.repository.work
    git(work, "checkout", "-q", "-b", "side")
    place.repository.commit_only({"x.yaml": vm("x")}, "-S")
    git(work, "checkout", "-q", "main")
    place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    assert place.fetched().source.refused is None
    merges_the_side(place.repository)
    desired = place.fetched()
    assert (desired.source.refused, names(desired)) == (None, ["db", "web", "x"])


def test_no_unsigned_commit_comes_in_behind_an_approved_rewrite(
    place: Place, tmp_path: Path
) -> None:
    """Sabotage: of a history that was rewritten look at its tip alone."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    work = place.repository.work
    base = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    good = place.repository.commit({"y.yaml": vm("y")}, "-S")
    assert place.fetched().source.commit == good
    git(work, "reset", "-q", "--hard", base)
    bad = place.repository.commit_only({"evil.yaml": vm("evil")})
    place.repository.commit({}, "-S")
    desired = place.fetched()
    assert desired.source.refused == f"commit {bad[:12]} is not signed"
    with pytest.raises(Blocked, match="no approval makes up for that"):
        place.source.approve(place.repository.head)


def test_of_a_history_with_nothing_in_common_the_commit_itself_is_looked_at(
    place: Place, tmp_path: Path
) -> None:
    """Sabotage: ask for signatures of all that another repository ever held; no approval would make up for one."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    place.repository.vanish()
    other = Repository(tmp_path / "other")
    other.commit_only({"images.yaml": MAP, "third.yaml": vm("third")})
    alice.signs(other)
    tip = other.commit({}, "-S")
    other.bare.rename(place.repository.bare)
    refused = place.fetched().source.refused or ""
    assert (
        f"commit {tip[:12]} does not follow {good[:12]}: they have no commit in common" in refused
    )
    assert "of those before it no signature was looked at" in refused, "who approves it must know"
    place.source.approve(tip)
    assert names(place.fetched()) == ["third"]


def test_what_is_followed_since_before_signatures_were_asked_for_is_told(
    place: Place, tmp_path: Path
) -> None:
    alice = Somebody(tmp_path, "alice")
    place.fetched()
    place.agent(listed(tmp_path, alice.line()))
    desired = place.fetched()
    assert names(desired) == ["db", "web"]
    assert desired.source.refused == (
        f"commit {place.first[:12]} is not signed; it is followed since before that was asked for"
    )
    alice.signs(place.repository)
    tip = place.repository.commit({}, "-S")
    desired = place.fetched()
    assert (desired.source.commit, desired.source.refused) == (tip, None)


def test_the_first_commit_that_is_followed_is_looked_at_too(place: Place, tmp_path: Path) -> None:
    place.agent(listed(tmp_path, Somebody(tmp_path, "alice").line()))
    desired = place.fetched()
    assert desired.source.commit is None
    assert desired.source.refused == f"commit {place.first[:12]} is not signed"
    assert desired.unproven is not None


def test_an_approved_rewind_must_be_signed_all_the_same(place: Place, tmp_path: Path) -> None:
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    first = place.repository.commit({}, "-S")
    place.repository.commit({"x.yaml": vm("x")}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    git(place.repository.bare, "update-ref", "refs/heads/main", first)
    assert place.fetched().source.refused is not None
    place.source.approve(first)
    assert place.fetched().source.commit == first
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    assert place.fetched().source.refused == f"commit {place.first[:12]} is not signed"


def test_a_long_history_is_looked_at_to_its_end(place: Place, tmp_path: Path) -> None:
    """git is asked for some of them at a time. Sabotage: ask once."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "--amend", "-S")  # whose clone has no border
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    work = place.repository.work
    tree, tip = git(work, "rev-parse", "HEAD^{tree}"), good
    for number in range(201):
        tip = git(work, "commit-tree", "-S", tree, "-p", tip, "-m", f"{number}")
    git(work, "reset", "-q", "--hard", tip)
    bad = place.repository.commit_only({"x.yaml": vm("x")})
    place.repository.commit_only({"x.yaml": None})
    place.repository.commit({}, "-S")
    source = place.fetched().source
    assert (source.commit, source.refused) == (good, f"commit {bad[:12]} is not signed")


def test_what_is_no_signature_at_all_is_refused_by_the_name_of_its_commit(
    place: Place, tmp_path: Path
) -> None:
    """git itself dies of one: of a pipe that ssh-keygen does not read. Sabotage: take that for a clone that is broken,
    which is then made anew with each fetch."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    clone = place.clone.git.directory.stat().st_ino
    place.repository.commit_only({"a.yaml": vm("a")}, "-S")
    bad = signed_by_nothing(place.repository, "SSH SIGNATURE", "x" * (1 << 20))
    place.repository.commit({"y.yaml": vm("y")}, "-S")
    for _ in range(2):
        source = place.fetched().source
        assert (source.commit, source.error) == (good, None)
        assert source.refused == f"commit {bad[:12]} has a signature that does not fit it"
    assert place.clone.git.directory.stat().st_ino == clone


def test_a_clone_that_is_broken_is_no_bad_signature(place: Place, tmp_path: Path) -> None:
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    place.agent(listed(tmp_path, alice.line()))
    place.fetched()
    shutil.rmtree(place.clone.git.directory / "objects" / "pack")
    source = place.fetched().source
    assert source.refused is None
    assert source.error is not None
    source = place.fetched().source
    assert (source.commit, source.error, source.refused) == (good, None, None)


@pytest.mark.parametrize("edit", ["s/ G$/ Z/", "/ G$/d"], ids=["unknown", "nothing"])
def test_a_git_that_says_what_nobody_knows_lets_nothing_pass(
    place: Place, tmp_path: Path, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: take what is not known for good."""
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    place.repository.commit({}, "-S")
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "git"
    real = shutil.which("git")
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" log "*) {real} "$@" | sed "{edit}";; *) exec {real} "$@";; esac\n'
    )
    script.chmod(0o755)
    place.agent(listed(tmp_path, alice.line()))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    source = place.fetched().source
    assert source.commit is None
    assert (source.refused or "").endswith("has a signature that cannot be verified")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: os.truncate(file, 0)])
def test_signers_that_cannot_be_read_let_nothing_pass(
    place: Place, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    alice = Somebody(tmp_path, "alice")
    alice.signs(place.repository)
    good = place.repository.commit({}, "-S")
    signers = listed(tmp_path, alice.line())
    place.agent(signers)
    place.fetched()
    spoil(signers.file)
    place.repository.commit({"web.yaml": None}, "-S")
    source = place.fetched().source
    assert source.commit == good
    assert source.error or source.refused
