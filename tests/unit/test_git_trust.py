"""Whose commits are followed. Keys, signatures and what verifies them are real."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import Blocked
from agent.source.git.trust import Signers
from tests.gits import Repository, git
from tests.trees import vm
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


def test_openpgp_keys_of_a_keyring_are_known_and_no_others(place: Place, tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)

    def gpg(*words: str) -> bytes:
        command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def signed_by(whom: str) -> str:
        program = tmp_path / "gpg-of-home"
        program.write_text(f'#!/bin/sh\nexec gpg --homedir {home} "$@"\n')
        program.chmod(0o755)
        git(place.repository.work, "config", "gpg.program", str(program))
        return place.repository.commit({"x.yaml": vm("x", f"labels: {{of: {whom}}}")}, f"-S{whom}")

    try:
        for whom in ("alice", "mallory"):
            gpg("--quick-generate-key", whom, "ed25519", "sign")
        good = signed_by("alice")
        keyring = tmp_path / "keyring"
        for arguments in ((), ("--armor",)):
            keyring.write_bytes(gpg("--export", *arguments, "alice"))
            place.agent(Signers(keyring))
            assert place.fetched().source.commit == good
        bad = signed_by("mallory")
        why = f"is signed by somebody who is not listed in {keyring}, or not for its date"
        assert place.fetched().source.refused == f"commit {bad[:12]} {why}"
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def test_a_key_in_the_operators_own_keyring_is_not_enough(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature chooses by which program it is verified; only the one that the file is for may answer."""
    ran = tmp_path / "ran"
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\ntouch {ran}\necho '[GNUPG:] GOODSIG 0 x'\n")
    liar.chmod(0o755)
    config = tmp_path / "gitconfig"
    programs = ["[gpg]", f"program = {liar}", '[gpg "x509"]', f"program = {liar}"]
    config.write_text("\n".join(programs))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    forged = "-----BEGIN PGP SIGNATURE-----\n \n nothing\n -----END PGP SIGNATURE-----"
    body = git(place.repository.work, "cat-file", "commit", "HEAD")
    made = body.replace("\ncommitter", f"\ngpgsig {forged}\ncommitter", 1)
    lines = made.replace(f"gpgsig {forged}\n", "").split("\n\n", 1)
    made = f"{lines[0]}\ngpgsig {forged}\n\n{lines[1]}\n"
    command = ("hash-object", "-t", "commit", "-w", "--stdin")
    bad = git(place.repository.work, *command, stdin=made.encode())
    git(place.repository.work, "push", "-q", "-f", "origin", f"{bad}:refs/heads/main")
    place.agent(listed(tmp_path, Somebody(tmp_path, "alice").line()))
    assert place.fetched().source.refused is not None
    assert not ran.exists()


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
