"""Small files: whole or not there, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

from agent import durable


def test_a_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0)
    try:
        assert durable.write(path, b"content", replace=False)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    assert not durable.write(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    assert durable.write(path, b"new", replace=True)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_planted_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_bytes(b"theirs")
    path.symlink_to(target)
    assert not durable.write(path, b"ours", replace=False)
    assert durable.write(path, b"ours", replace=True)
    assert target.read_bytes() == b"theirs"
    assert not path.is_symlink()


def test_a_directory_is_private_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        durable.directory(tmp_path / "directory")
    assert (tmp_path / "directory").stat().st_mode & 0o777 == 0o700
