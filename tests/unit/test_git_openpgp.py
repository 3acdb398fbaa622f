"""Whose commits are followed by their OpenPGP keys, and which program may say so. Keys and signatures are real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import Blocked
from agent.source.git.trust import Signers
from tests.gits import Repository, git
from tests.trees import vm
from tests.unit.test_git_source import Place
from tests.unit.test_git_trust import Somebody, listed, signed_by_nothing


class Keys:
    """OpenPGP keys of several people, in a directory of their own."""

    def __init__(self, root: Path) -> None:
        self.home = root / "gnupg"
        self.home.mkdir(mode=0o700)
        self.keyring = root / "keyring"
        self._program = root / "gpg-of-home"

    def gpg(self, *words: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True, input=stdin).stdout

    def make(self, whom: str, *words: str, lasting: str = "never") -> None:
        self.gpg(*words, "--quick-generate-key", whom, "ed25519", "sign", lasting)

    def export(self, whom: str, *words: str) -> Signers:
        """A keyring with their key and no other."""
        self.keyring.write_bytes(self.gpg("--export", *words, whom))
        return Signers(self.keyring)

    def revoke(self, whom: str) -> None:
        listing = self.gpg("--with-colons", "--list-keys", whom).decode()
        [print_of_it] = [
            line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")
        ]
        certificate = self.home / "openpgp-revocs.d" / f"{print_of_it}.rev"
        self.gpg("--import", stdin=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))

    def commit(self, repository: Repository, whom: str, *words: str) -> str:
        """A commit that they sign; `words` are further ones for gpg."""
        self._program.write_text(
            f'#!/bin/sh\nexec gpg --homedir {self.home} {" ".join(words)} "$@"\n'
        )
        self._program.chmod(0o755)
        git(repository.work, "config", "gpg.program", str(self._program))
        return repository.commit({"x.yaml": vm("x", f"labels: {{of: {whom}}}")}, f"-S{whom}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(tmp_path)
    try:
        yield made
    finally:
        subprocess.run(["gpgconf", "--homedir", made.home, "--kill", "all"], check=True)


def test_openpgp_keys_of_a_keyring_are_known_and_no_others(place: Place, keys: Keys) -> None:
    for whom in ("alice", "mallory"):
        keys.make(whom)
    good = keys.commit(place.repository, "alice")
    for words in ((), ("--armor",)):
        place.agent(keys.export("alice", *words))
        assert place.fetched().source.commit == good
    bad = keys.commit(place.repository, "mallory")
    why = f"is signed by somebody who is not listed in {keys.keyring}, or not for its date"
    assert place.fetched().source.refused == f"commit {bad[:12]} {why}"


LONG_AGO = ("--faked-system-time", "20200101T000000!")
OUT_OF_DATE = {
    "a key that ended": "is signed with a key that has expired",
    "a signature that ended": "has a signature that has expired",
    "a revoked key": "is signed with a key that was revoked",
}


@pytest.mark.parametrize("wrong", OUT_OF_DATE)
def test_a_key_of_the_keyring_does_not_count_for_ever(place: Place, keys: Keys, wrong: str) -> None:
    keys.make("alice")
    good = keys.commit(place.repository, "alice")
    place.agent(keys.export("alice"))
    assert place.fetched().source.commit == good
    match wrong:
        case "a key that ended":
            keys.make("bob", *LONG_AGO, lasting="1d")
            bad = keys.commit(place.repository, "bob", *LONG_AGO)
        case "a signature that ended":
            keys.make("bob", *LONG_AGO)
            bad = keys.commit(place.repository, "bob", *LONG_AGO, "--default-sig-expire", "1d")
        case _:
            keys.make("bob")
            bad = keys.commit(place.repository, "bob")
            keys.revoke("bob")
    keys.keyring.write_bytes(keys.gpg("--export"))
    source = place.fetched().source
    assert (source.commit, source.refused) == (good, f"commit {bad[:12]} {OUT_OF_DATE[wrong]}")
    with pytest.raises(Blocked, match="no approval makes up for that"):
        place.source.approve(bad)


def test_a_keyring_that_is_none_lets_nothing_pass_and_says_so(place: Place, keys: Keys) -> None:
    keys.make("alice")
    keys.commit(place.repository, "alice")
    signers = keys.export("alice", "--armor")
    signers.file.write_bytes(signers.file.read_bytes()[:80])
    place.agent(signers)
    source = place.fetched().source
    assert source.commit is None
    assert source.error is not None
    assert f"importing the keyring {keys.keyring}: " in source.error


FOREIGN = {"gpg": "PGP SIGNATURE", "x509": "SIGNED MESSAGE", "ssh": "SSH SIGNATURE"}


@pytest.mark.parametrize(
    ("file", "signature"), [("ssh", "gpg"), ("ssh", "x509"), ("gpg", "x509"), ("gpg", "ssh")]
)
def test_only_the_program_that_the_file_is_for_is_asked(
    place: Place, keys: Keys, tmp_path: Path, file: str, signature: str
) -> None:
    """A signature chooses by which kind of program it is verified, and configurations say which that is. Sabotage:
    let one of the others answer."""
    ran, liar = tmp_path / "ran", tmp_path / "liar"
    good = '[GNUPG:] GOODSIG 0 x\n[GNUPG:] TRUST_ULTIMATE 0\nGood "git" signature for x'
    liar.write_text(f"#!/bin/sh\ntouch {ran}\necho '{good}'\n")
    liar.chmod(0o755)
    if file == "gpg":
        keys.make("alice")
    place.agent(
        keys.export("alice")
        if file == "gpg"
        else listed(tmp_path, Somebody(tmp_path, "alice").line())
    )
    forged = signed_by_nothing(place.repository, FOREIGN[signature])
    git(place.repository.work, "push", "-q", "origin", "HEAD:main")
    clone = place.clone.git
    clone.directory.parent.mkdir(parents=True)
    clone.initialise()
    for name in ("gpg.program", "gpg.x509.program", "gpg.ssh.program"):
        git(clone.directory, "config", name, str(liar))
    git(clone.directory, "config", "gpg.ssh.allowedSignersFile", str(liar))
    assert (place.fetched().source.refused or "").startswith(f"commit {forged[:12]} ")
    assert not ran.exists()
