"""What goes on on a screen, tried on one: a pseudo-terminal, with keys that are pressed; and where there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from agent.paths import StatePaths
from state.history import Event
from state.ids import Name, Uid
from state.ledger import Ledger
from state.metrics import Metrics
from tests.builders import running
from tests.unit.test_commands import ROOT, Call, caller
from tests.unit.test_metrics import look, usage

LATE = 60.0
BUSY = Uid("00000000-0000-5000-8000-000000000001")
LARGE = Uid("00000000-0000-5000-8000-000000000002")
_ESCAPE = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    """A state directory in which `busy` and `large` were measured just now."""
    made = StatePaths(tmp_path / "state")
    made.root.mkdir(mode=0o700)
    Ledger(made.database).close()
    now = time.time_ns() / 1e9
    with closing(Metrics(made.metrics)) as metrics:
        for step in range(30):
            busy = look(usage(1, step / 2, 0, 1 << 20), BUSY, "busy")
            large = look(usage(2, 0.0, step << 20, 1 << 30), LARGE, "large")
            metrics.add(now - 30 + step, [busy, large])
    return made


def happens(paths: StatePaths, message: str) -> None:
    with closing(Ledger(paths.database)) as ledger, ledger.transaction() as change:
        change.event(Event(at=1e9, reason="Told", message=message, name=Name("web")))


class Screen:
    """A program on a terminal of 100 by 30."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process, self._keyboard = process, keyboard
        self._seen = b""

    def press(self, key: str) -> None:
        os.write(self._keyboard, key.encode())

    def rest(self) -> bytes:
        """What it writes until it ends."""
        found, end = b"", time.monotonic() + LATE
        while self.process.poll() is None or select.select([self._keyboard], [], [], 0)[0]:
            assert time.monotonic() < end
            if select.select([self._keyboard], [], [], 0.1)[0]:
                found += os.read(self._keyboard, 1 << 16)
        return found

    def until(self, condition: Callable[[str], object]) -> str:
        """Wait until what it has written since the last such wait fits; that."""
        end = time.monotonic() + LATE
        while not condition(text := _ESCAPE.sub(b"", self._seen).decode(errors="replace")):
            left = end - time.monotonic()
            assert left > 0, text
            assert select.select([self._keyboard], [], [], left)[0], text
            self._seen += os.read(self._keyboard, 1 << 16)
        self._seen = b""
        return text


@contextmanager
def on_terminal(paths: StatePaths, *words: str, kind: str = "xterm") -> Iterator[Screen]:
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(terminal)
    environment = {"HOLDFAST_STATE": str(paths.root), "PYTHONPATH": str(ROOT), "TERM": kind}
    gone = {"COLUMNS", "LINES", "NO_COLOR"}
    kept = {key: value for key, value in os.environ.items() if key not in gone}
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *words],
        stdin=terminal, stdout=terminal, stderr=terminal, env=kept | environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield Screen(process, keyboard)
        with suppress(OSError):
            while select.select([keyboard], [], [], 0)[0] and os.read(keyboard, 1 << 16):
                pass
        process.wait(LATE)
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(keyboard)


@pytest.mark.parametrize("words", [("top",), ("status", "--watch")])
def test_who_is_told_to_end_gives_the_screen_back(
    paths: StatePaths, words: tuple[str, ...]
) -> None:
    """Sabotage: end as every program does. The cursor stays hidden then, and top's screen stands."""
    with on_terminal(paths, *words) as screen:
        screen.until(lambda text: "NAME" in text)
        screen.process.terminate()
        shown = screen.rest()
        assert screen.process.wait(LATE) == 128 + signal.SIGTERM
    assert b"\x1b[?25h" in shown
    assert words != ("top",) or b"\x1b[?1049l" in shown


def test_a_terminal_that_can_do_nothing_is_shown_top_once(paths: StatePaths) -> None:
    """Sabotage: draw on it. It shows nothing at all then, for as long as that goes on."""
    with on_terminal(paths, "top", kind="dumb") as screen:
        assert "busy" in screen.until(lambda text: "large" in text and "busy" in text)
        assert screen.process.wait(LATE) == 0


def first(text: str) -> str:
    """The name in the first row of the table that was drawn last; empty where only its head has come yet."""
    words = text[text.rindex("NAME") :].partition("\n")[2].split()
    return words[0] if words else ""


def test_top_goes_on_and_is_sorted_by_the_key_that_is_pressed(paths: StatePaths) -> None:
    """Sabotage: leave the terminal as it was set; read keys through Python's buffer, where the second of two stays."""
    with on_terminal(paths, "top") as screen:
        assert first(screen.until(lambda text: "large" in text)) == "busy"
        screen.press("m")
        screen.until(lambda text: "NAME" in text and "busy" in text and first(text) == "large")
        screen.press("?n")
        screen.until(lambda text: "NAME" in text and "large" in text and first(text) == "busy")
        screen.press("q")
        assert screen.process.wait(LATE) == 0


def test_top_is_left_by_an_interrupt_too(paths: StatePaths) -> None:
    with on_terminal(paths, "top") as screen:
        screen.until(lambda text: "large" in text)
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(LATE) == 130


def test_status_is_shown_again_when_it_changes(paths: StatePaths) -> None:
    with on_terminal(paths, "status", "--watch") as screen:
        screen.until(lambda text: "agent: none is running" in text)
        with closing(Ledger(paths.database)) as ledger, ledger.transaction() as change:
            change.put_instance(running())
        screen.until(lambda text: "web" in text)
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(LATE) == 130


def test_events_are_told_as_they_happen(paths: StatePaths) -> None:
    happens(paths, "before")
    with on_terminal(paths, "events", "-f") as screen:
        screen.until(lambda text: "before" in text)
        happens(paths, "meanwhile \x1b[31m and red")
        screen.until(lambda text: "meanwhile \\x1b[31m and red" in text)
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(LATE) == 130


def test_courses_fit_the_screen(paths: StatePaths) -> None:
    with on_terminal(paths, "metrics", "large", "--since", "10m") as screen:
        text = screen.until(lambda text: "DISK" in text)
        assert screen.process.wait(LATE) == 0
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"WRITTEN +[▁▂▃▄▅▆▇█]{8,} +1\.0MiB/s", text)


@pytest.mark.parametrize(
    "words",
    ["top", "top --sort disk", "metrics busy", "metrics busy --since 10m", "status --watch", "events"],
)  # fmt: skip
def test_without_a_terminal_it_is_plain_text_and_ends(
    paths: StatePaths, tmp_path: Path, words: str
) -> None:
    happens(paths, "before")
    holdfast: Call = caller(tmp_path)
    done = holdfast(words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout


def test_without_a_terminal_events_are_followed_line_by_line(paths: StatePaths) -> None:
    happens(paths, "before")
    environment = os.environ | {"HOLDFAST_STATE": str(paths.root), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "agent", "events", "-f", "-o", "json"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert b"before" in follower.stdout.readline()
        happens(paths, "meanwhile")
        assert b"meanwhile" in follower.stdout.readline()
        follower.terminate()
