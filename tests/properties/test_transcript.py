"""A run's log depends on what is said, not on the pieces in which it comes, nor on when its writer was killed. Each
property names the sabotage that it was seen to catch."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent import paths
from agent.errors import RetryLater
from agent.jobs.masking import MASK, Masker, Seam
from agent.jobs.progress import Stage
from agent.jobs.transcript import Transcript
from state.work import Look

CAP, TAIL = 240, 40


@dataclass(frozen=True)
class Story:
    """What is said, with secrets in it that occur, overlap, touch, and are begun and not finished."""

    values: list[str]
    console: bytes
    output: bytes


@st.composite
def stories(draw: st.DrawFn) -> Story:
    values = draw(st.lists(st.text("ab\n", min_size=1, max_size=8), max_size=3))
    parts = [b"x", b"\n", b"a line\n", b"y" * 30]
    for value in values:
        parts += [value.encode()] * 3 + [value[:-1].encode(), value[len(value) // 2 :].encode()]
    said = st.lists(st.sampled_from(parts), max_size=60).map(b"".join)
    return Story(values, draw(said), draw(said))


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def hidden(data: bytes, values: list[str]) -> list[bool]:
    """For every byte whether it belongs to a secret: as slow and simple as can be."""
    found = [False] * len(data)
    for value in (one.strip().encode() for one in values):
        for at in range(len(data)):
            if len(value) >= 4 and data[at:].startswith(value):
                found[at : at + len(value)] = [True] * len(value)
    return found


def masked(data: bytes, cover: list[bool], room: int | None = None) -> tuple[bytes, int]:
    """The bytes with secrets hidden, and how many of them fit into `room`."""
    text = b""
    for at, byte in enumerate(data):
        more = bytes([byte])
        if cover[at]:
            more = b"" if at and cover[at - 1] else MASK
        if room is not None and len(text) + len(more) > room:
            return text, at
        text += more
    return text, len(data)


def expected(console: bytes, output: bytes, values: list[str]) -> bytes:
    """What the log of one attempt is to be."""
    log = b"[holdfast] attempt 1\n"
    short = len({one.strip() for one in values if 0 < len(one.strip()) < 4})
    if short:
        log += (
            f"[holdfast] {short} of the secrets are shorter than 4 characters and are not".encode()
        )
        log += b" hidden\n"

    def mark(text: str) -> bytes:
        return b"\n" * (not log.endswith(b"\n")) + f"[holdfast] {text}\n".encode()

    text, head = masked(console, hidden(console, values), max(0, CAP // 2 - len(log)))
    log += text
    if head < len(console):
        log += mark(f"{len(console) - head} bytes of the console were dropped here")
    log += mark("script")
    cover = hidden(output, values)
    text, head = masked(output, cover, max(0, CAP - len(log)))
    log += text
    if head < len(output):
        tail = max(head, len(output) - TAIL)
        if tail > head:
            log += mark(
                f"{tail - head} bytes of output were dropped here; its last"
                f" {len(output) - tail} follow"
            )
        log += masked(output[tail:], cover[tail:])[0]
    return log + mark("over")


class Writer:
    """Writes a log from two sources, in pieces, and is killed now and then."""

    def __init__(self, log: Path, values: list[str]) -> None:
        self._log, self._values = log, values
        self.transcript = Transcript(log, values, cap=CAP, tail=TAIL)

    def killed(self, halfway: bytes) -> None:
        """The log may have grown, by anything, and the record not."""
        self.transcript.close()
        with self._log.open("ab") as file:
            file.write(halfway)
        self.transcript = Transcript(self._log, self._values, cap=CAP, tail=TAIL)

    def step(self, console: bytes, output: bytes, size: int, now: float) -> bool:
        """One step of the caller that goes by what the transcript says; whether it was the last."""
        it = self.transcript
        if it.attempt == 0:
            it.attempt_begins(1, "attempt 1")
        elif it.stage is Stage.CONSOLE:
            at = it.offset
            it.console(console[at : at + size], now)
            if it.offset == len(console):
                it.script_begins("script")
        elif it.stage is not Stage.ENDED:
            at, most = it.offset, min(size, it.wanted)
            # The code comes with the last bytes, and with a look that finds no more.
            code = (
                0 if at + most >= len(output) or it.wanted == 0 or it.stage is Stage.TAIL else None
            )
            if it.output(Look(True, output[at : at + most], len(output), code), now):
                it.ends("over")
        it.tick(now)
        return it.stage is Stage.ENDED and it.attempt == 1


@given(
    story=stories(),
    pieces=sizes,
    ticks=st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=10),
    kills=st.dictionaries(st.integers(0, 60), st.binary(max_size=20), max_size=8),
)
def test_pieces_pauses_and_kills_change_nothing(
    story: Story, pieces: list[int], ticks: list[float], kills: dict[int, bytes]
) -> None:
    """Nothing is taken back either, so that a reader can follow it.

    Sabotage: hold nothing back at the end of a piece; leave a log longer than recorded; forget `covered` or `hidden`
    between pieces; begin the tail without the bytes before it.
    """
    want = expected(story.console, story.output, story.values)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        writer = Writer(log, story.values)
        now = 0.0
        for number in range(10_000):
            size = pieces[number % len(pieces)]
            now += ticks[number % len(ticks)]
            if writer.step(story.console, story.output, size, now):
                break
            if number in kills:
                writer.killed(kills[number])
            assert want.startswith(log.read_bytes())
        writer.transcript.close()
        assert log.read_bytes() == want


@given(story=stories(), cuts=sizes)
def test_no_secret_is_left_and_nothing_else_is_lost(story: Story, cuts: list[int]) -> None:
    """Sabotage: look for secrets in each piece alone; take the first of two that overlap, and go on behind it."""
    data, masker = story.output, Masker(story.values)
    text, at, seam, end = b"", 0, Seam(), 0
    for cut in cuts:
        end = min(len(data), end + cut)
        piece = data[at:end]
        taken = masker.take(piece, masker.decided(piece), seam)
        text, at, seam = text + taken.text, at + taken.length, taken.seam
    rest = data[at:]
    text += masker.take(rest, len(rest), seam).text
    assert text == masked(data, hidden(data, story.values))[0]


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def deadly(line: int) -> Iterator[None]:
    """Kill what runs in the block at the given line of `agent.jobs` that it comes to."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if "agent/jobs/" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left == 0 and event == "line":
            raise Killed
        return trace

    before, files = sys.gettrace(), set(os.listdir("/proc/self/fd"))
    sys.settrace(trace)
    try:
        yield
    except Killed:
        for left_open in set(os.listdir("/proc/self/fd")) - files:
            with suppress(OSError):
                os.close(int(left_open))
        raise
    finally:
        sys.settrace(before)


def let_go(directory: Path) -> None:
    """What the kernel does for a process that was killed: no file below the directory stays open."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{directory}/"):
                os.close(int(descriptor))


def test_a_kill_at_any_line_costs_and_doubles_nothing(tmp_path: Path) -> None:
    """Sabotage: write the record before the log; write no record before the log first grows."""
    console, output = b"boot\r\nlog", b"two secret three\n" * 18 + b"unfinished secr"
    values, pieces = ["secret"], [7, 64, 3]
    want = expected(console, output, values)
    log = tmp_path / "log"

    def live() -> None:
        writer = Writer(log, values)
        for number in range(10_000):
            if writer.step(console, output, pieces[number % 3], number / 3):
                break
        writer.transcript.close()

    for line in range(1, 100_000):
        killed = False
        try:
            with deadly(line):
                live()
        except Killed:
            killed = True
            let_go(tmp_path)
            live()
        assert log.read_bytes() == want, f"killed at line {line}"
        log.unlink()
        paths.progress(log).unlink()
        if not killed:
            break
    assert line > 500


def test_a_full_disk_costs_nothing_once_there_is_room(tmp_path: Path) -> None:
    """Sabotage: move on before the log is written."""
    want = expected(b"", b"line\n" * 30, [])
    log = tmp_path / "log"
    writer = Writer(log, [])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        number, refused = 0, 0
        while True:
            resource.setrlimit(resource.RLIMIT_FSIZE, (520 if number % 2 else 40, before[1]))
            try:
                if writer.step(b"", b"line\n" * 30, 11, float(number)):
                    break
            except RetryLater:
                refused += 1
            number += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert refused > 5
    assert log.read_bytes() == want
    writer.transcript.close()
