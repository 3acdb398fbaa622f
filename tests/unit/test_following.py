"""Logs that grow while they are shown."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.cli import following
from agent.cli.following import Growing, Replaced, beginning
from agent.errors import BadInput


@given(st.binary(max_size=60), st.integers(1, 8), st.integers(1, 7))
@example(b"one\ntwo\n", 1, 4)
@example(b"\n\n", 1, 1)
def test_the_last_lines_are_what_splitting_says(data: bytes, lines: int, chunk: int) -> None:
    """Sabotage: count the newline at the very end as the beginning of a line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "_CHUNK", chunk)
        at = beginning(io.BytesIO(data), lines)
    assert data[at:] == b"".join(io.BytesIO(data).readlines()[-lines:])


def test_all_of_a_file_is_shown_where_nobody_asks_for_less() -> None:
    assert beginning(io.BytesIO(b"one\ntwo\n"), None) == 0


def test_a_runs_log_is_shown_from_its_last_lines_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    shown = Growing(log, lines=1)
    shown.go_on()
    log.write_text("one\ntwo\n")
    shown.go_on()
    log.write_text("one\ntwo\nthree\n")
    shown.go_on()
    shown.close()
    assert capsys.readouterr().out == "two\nthree\n"


def test_only_the_first_log_of_a_vm_is_shown_from_its_last_lines_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    shown = Replaced(lines=1)
    shown.go_on(log)
    log.rename(tmp_path / "old")
    log.write_text("three\nfour\n")
    shown.go_on(log)
    shown.close()
    assert capsys.readouterr().out == "two\nthree\nfour\n"


@pytest.mark.parametrize("what", ["directory", "pipe", "link"])
def test_what_is_no_log_is_not_read(tmp_path: Path, what: str) -> None:
    log, secret = tmp_path / "log", tmp_path / "secret"
    secret.write_text("precious")
    match what:
        case "directory":
            log.mkdir()
        case "pipe":
            os.mkfifo(log)
        case _:
            log.symlink_to(secret)
    with pytest.raises(BadInput, match="it is no file, and not what holdfast put there"):
        Growing(log).go_on()
