"""A run's log on disk: what is its own, when a line is written, and who may read it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agent import paths
from agent.errors import RetryLater
from agent.jobs.masking import Seam
from agent.jobs.progress import LARGEST, Progress, RecordedLog, Stage
from agent.jobs.transcript import PATIENCE, Transcript
from state.work import Look


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def transcript(log: Path) -> Iterator[Transcript]:
    """Of a run whose script has begun."""
    with closing(Transcript(log, ["sesame", "pin"])) as made:
        made.attempt_begins(1, "attempt 1")
        made.script_begins("the script begins")
        yield made


def says(transcript: Transcript, data: bytes, now: float = 0.0) -> None:
    transcript.output(Look(True, data, transcript.offset + len(data)), now)


def test_only_its_owner_may_read_it(log: Path, transcript: Transcript) -> None:
    for file in (log, paths.progress(log)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(RetryLater):
        Transcript(tmp_path / "log")
    assert victim.read_text() == "kept"


def test_secrets_that_are_too_short_are_said_to_be_seen(log: Path, transcript: Transcript) -> None:
    assert b"[holdfast] 1 of the secrets are shorter than 4 characters" in log.read_bytes()
    says(transcript, b"a pin and a sesame one\n")
    assert log.read_bytes().endswith(b"\na pin and a *** one\n")


def test_what_holdfast_says_itself_hides_secrets_too(log: Path, transcript: Transcript) -> None:
    transcript.ends("its shell\nsays sesame")
    assert log.read_bytes().endswith(b"\n[holdfast] its shell says ***\n")


def test_whole_lines_come_at_once_and_others_after_a_while(
    log: Path, transcript: Transcript
) -> None:
    says(transcript, b"whole\nbegin")
    assert log.read_bytes().endswith(b"whole\n")
    transcript.tick(PATIENCE / 2)
    assert log.read_bytes().endswith(b"whole\n")
    transcript.tick(PATIENCE)
    assert log.read_bytes().endswith(b"whole\nbegin")
    says(transcript, b"ning\n", PATIENCE)
    assert log.read_bytes().endswith(b"whole\nbeginning\n")


def test_a_line_that_trickles_waits_no_longer_than_one_that_stops(
    log: Path, transcript: Transcript
) -> None:
    for number in range(10):
        says(transcript, b".", number * PATIENCE / 4)
    assert log.read_bytes().count(b".") >= 5


def test_the_beginning_of_a_secret_waits_until_it_is_one_or_not(
    log: Path, transcript: Transcript
) -> None:
    says(transcript, b"say ses")
    transcript.tick(10.0)
    assert log.read_bytes().endswith(b"say ")
    says(transcript, b"ams and seeds\n", 11.0)
    assert log.read_bytes().endswith(b"say sesams and seeds\n")


def test_a_second_attempt_follows_the_first(log: Path, transcript: Transcript) -> None:
    says(transcript, b"cut of")
    transcript.ends("interrupted")
    transcript.attempt_begins(1, "attempt 1")
    transcript.attempt_begins(2, "attempt 2")
    assert (transcript.stage, transcript.offset) == (Stage.CONSOLE, 0)
    transcript.console(b"boot\n", 0.0)
    transcript.ends("it did not boot")
    transcript.ends("it did not boot")
    assert log.read_bytes().endswith(
        b"cut of\n[holdfast] interrupted\n[holdfast] attempt 2\n"
        b"[holdfast] 1 of the secrets are shorter than 4 characters and are not hidden\n"
        b"boot\n[holdfast] it did not boot\n"
    )


def test_what_comes_at_the_wrong_time_changes_nothing(log: Path, transcript: Transcript) -> None:
    before = log.read_bytes()
    transcript.console(b"late\n", 0.0)
    transcript.script_begins("again")
    assert log.read_bytes() == before
    transcript.ends("over")
    after = log.read_bytes()
    assert transcript.output(Look(True, b"later\n", 6, 0), 0.0)
    transcript.tick(10.0)
    assert log.read_bytes() == after


def test_what_a_process_left_behind_says_is_no_output(log: Path, transcript: Transcript) -> None:
    assert transcript.output(Look(True, b"said\nnot said\n", 5, 0), 0.0)
    transcript.ends("exit code 0")
    assert log.read_bytes().endswith(b"begins\nsaid\n[holdfast] exit code 0\n")


def test_a_script_that_is_given_up_shows_its_last_words(log: Path) -> None:
    with closing(Transcript(log, cap=100, tail=6)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        output = b"some words\n" * 20 + b"stuck?"
        while transcript.wanted:
            at = transcript.offset
            assert not transcript.output(Look(True, output[at : at + 50], len(output)), 0.0)
        for _ in range(3):
            assert not transcript.output(Look(True, b"", len(output)), 0.0)
        while True:
            at = transcript.offset
            look = Look(True, output[at : at + transcript.wanted], len(output))
            if transcript.output(look, 0.0, final=True):
                break
        transcript.ends("it was silent for too long")
    assert log.read_bytes().endswith(
        b"; its last 6 follow\nstuck?\n[holdfast] it was silent for too long\n"
    )


def test_a_secret_across_the_beginning_of_the_end_is_hidden(log: Path) -> None:
    with closing(Transcript(log, ["sesame"], cap=100, tail=6)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        output = b"some words\n" * 20 + b"sesame..."
        at = -1
        while at != transcript.offset:
            at = transcript.offset
            data = output[at : at + transcript.wanted]
            transcript.output(Look(True, data, len(output), 0), 0.0)
        transcript.ends("exit code 0")
    assert log.read_bytes().endswith(b"; its last 6 follow\n***...\n[holdfast] exit code 0\n")


def test_a_script_that_is_lost_tells_how_much_was_dropped(log: Path) -> None:
    with closing(Transcript(log, cap=100)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        transcript.output(Look(True, b"x" * 199 + b"\n", 200), 0.0)
        transcript.output(Look(True, b"", 1000), 0.0)
        head = transcript.offset
        transcript.ends("interrupted")
    dropped = f"[holdfast] {1000 - head} bytes of output were dropped here\n"
    assert log.read_bytes().endswith(dropped.encode() + b"[holdfast] interrupted\n")


@pytest.mark.parametrize("lost", ["record", "end of the log"])
def test_what_a_power_cut_took_is_missing_and_no_more(log: Path, lost: str) -> None:
    with closing(Transcript(log)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        says(transcript, b"one\ntwo\n")
    if lost == "record":
        paths.progress(log).write_bytes(b"\0" * 512)
    else:
        log.write_bytes(log.read_bytes()[:-2])
    kept = log.read_bytes()
    with closing(Transcript(log)) as transcript:
        transcript.attempt_begins(2, "attempt 2")
    assert log.read_bytes() == kept.removesuffix(b"\n") + b"\n[holdfast] attempt 2\n"


def test_no_size_is_too_large_to_be_recorded(log: Path) -> None:
    """Sabotage: record what was told. The record is longer than its room, and is lost."""
    with closing(Transcript(log)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        transcript.output(Look(True, b"hi\n", 10**900, 0), 0.0)
    with closing(Transcript(log)) as again:
        assert (again.attempt, again.stage) == (1, Stage.OUTPUT)


def test_every_record_fits_into_its_room(log: Path) -> None:
    numbers: dict[str, Any] = dict.fromkeys(asdict(Progress()), LARGEST)
    words = {"stage": Stage.CONSOLE, "seam": Seam(LARGEST, True), "line_over": False, "full": False}
    with closing(RecordedLog(log)) as recorded:
        recorded.append(b"", Progress(**numbers | words))
    assert paths.progress(log).stat().st_size == 512


@pytest.mark.parametrize("lost", ["run", "log", "log.progress"])
def test_a_log_that_somebody_removed_is_made_anew_and_says_so(tmp_path: Path, lost: str) -> None:
    """Sabotage: go on with the file that was opened. What is said then has no name."""
    mine = tmp_path / "run"
    mine.mkdir()
    with closing(Transcript(mine / "log")) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.script_begins("the script begins")
        says(transcript, b"before\n")
        shutil.rmtree(mine) if lost == "run" else (mine / lost).unlink()
        says(transcript, b"after\n")
    with closing(Transcript(mine / "log")) as again:
        assert (again.stage, again.offset) == (Stage.OUTPUT, len("before\nafter\n"))
        again.ends("exit code 0")
    said = (mine / "log").read_text()
    if lost == "log.progress":
        assert said.endswith("begins\nbefore\nafter\n[holdfast] exit code 0\n")
    else:
        assert said == (
            "[holdfast] this log was removed; what it said before is lost\n"
            "after\n[holdfast] exit code 0\n"
        )


def test_a_log_whose_directory_was_removed_meanwhile_says_so(tmp_path: Path) -> None:
    with closing(Transcript(tmp_path / "run" / "log")) as transcript:
        transcript.attempt_begins(2, "attempt 2")
    assert (tmp_path / "run" / "log").read_text() == (
        "[holdfast] this log was removed; what it said before is lost\n[holdfast] attempt 2\n"
    )


def test_a_console_that_was_cut_is_read_from_its_new_beginning(log: Path) -> None:
    with closing(Transcript(log)) as transcript:
        transcript.attempt_begins(1, "attempt 1")
        transcript.console(b"one\ntw", 0.0)
        transcript.console_cut("the console was cut")
        assert transcript.offset == 0
        transcript.console(b"six\n", 0.0)
        assert transcript.offset == 4
    assert log.read_text() == "[holdfast] attempt 1\none\ntw\n[holdfast] the console was cut\nsix\n"
