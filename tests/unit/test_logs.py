"""Logs are short, and what they say cannot act on a terminal."""

from __future__ import annotations

import os
from pathlib import Path

from agent.hypervisor.qemu import logs
from agent.paths import older


def test_a_log_that_is_too_long_is_cut_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(writer, b"a" * 600 + b"b" * 500)
    assert logs.bound(log, 1000)
    assert older(log).read_bytes() == b"b" * 500
    os.write(writer, b"on")
    os.close(writer)
    assert log.read_bytes() == b"on"
    assert not logs.bound(log, 1000)


def test_a_log_that_is_a_link_or_missing_is_left_alone(tmp_path: Path) -> None:
    target, log = tmp_path / "target", tmp_path / "log"
    target.write_bytes(b"x" * 100)
    log.symlink_to(target)
    assert not logs.bound(log, 10)
    assert not logs.bound(tmp_path / "missing", 10)
    assert logs.last_words(log) == ""
    assert target.read_bytes() == b"x" * 100


def test_each_process_begins_a_log_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    logs.begin(log)
    log.write_text("first")
    logs.begin(log)
    assert not log.exists()
    assert older(log).read_text() == "first"


def test_last_words_are_both_ends_on_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"begin\n" + b"x" * 2000 + b"\n\x1b[31mend\xff\n")
    words = logs.last_words(log, 20)
    assert words.startswith("begin xxx")
    assert " [...] " in words
    assert words.endswith("\\x1b[31mend\\xff")
