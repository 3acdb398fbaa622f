"""Key pairs: made once, kept, readable by nobody else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.errors import StateUnusable
from agent.guest import keys
from agent.paths import StatePaths
from state.ids import Name


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path)


def test_a_pair_is_made_once_and_kept(paths: StatePaths) -> None:
    assert keys.client_key(paths) == keys.client_key(paths)
    web = keys.host_key(paths, Name("web"))
    assert keys.host_key(paths, Name("web")) == web
    assert keys.host_key(paths, Name("db")).public != web.public


def test_openssh_reads_the_private_key_and_agrees_on_the_public_one(paths: StatePaths) -> None:
    pair = keys.client_key(paths)
    read = subprocess.run(
        ["ssh-keygen", "-y", "-f", paths.client_key], capture_output=True, text=True, check=True
    )
    assert read.stdout.split()[:2] == pair.public.split()[:2]
    assert pair.public.startswith("ssh-ed25519 AAAA")
    assert pair.public.count("\n") == 0


def test_nobody_else_can_read_them(paths: StatePaths) -> None:
    keys.client_key(paths)
    keys.host_key(paths, Name("web"))
    assert paths.client_key.stat().st_mode & 0o777 == 0o600
    assert (paths.host_keys / "web").stat().st_mode & 0o777 == 0o600
    assert paths.keys.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in repr(keys.client_key(paths))


def test_a_crash_between_the_two_files_loses_nothing(paths: StatePaths) -> None:
    pair = keys.client_key(paths)
    paths.client_key.with_name("id_ed25519.pub").unlink()
    assert keys.client_key(paths) == pair


def test_a_damaged_key_is_reported_and_not_replaced(paths: StatePaths) -> None:
    keys.client_key(paths)
    paths.client_key.write_text("not a key")
    paths.client_key.with_name("id_ed25519.pub").unlink()
    with pytest.raises(StateUnusable, match="id_ed25519"):
        keys.client_key(paths)
    assert paths.client_key.read_text() == "not a key"


def test_a_key_that_cannot_be_read_is_named_with_what_to_do(paths: StatePaths) -> None:
    """Sabotage: let the library's error through."""
    keys.client_key(paths)
    paths.client_key.write_bytes(b"\xff")
    with pytest.raises(StateUnusable, match=r"id_ed25519 cannot be used: it is no text \(make it"):
        keys.client_key(paths)
    paths.client_key.unlink()
    paths.client_key.mkdir()
    with pytest.raises(StateUnusable, match=r"id_ed25519 cannot be used: Is a directory \(make"):
        keys.client_key(paths)
