"""Bytes in and out of guests: `ssh`, `logs` and `console` with much, with odd bytes, and with ends that come early."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.hypervisor.qemu.running import CONSOLE_LIMIT
from agent.paths import older
from tests.e2e.site import DEADLINE, ROOT, Site, image_path, site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

MUCH = 5_000_000


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    """A site with one VM, `web`, that answers; for tests that leave it so."""
    with site(image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2"), "tiny") as made:
        made.vm("web")
        with made.agent():
            made.ready("web")
            yield made


# ssh


def test_much_on_both_outputs_at_once_arrives_whole(place: Site) -> None:
    told = place.call(
        "ssh", "web", "--",
        f"yes out | head -c {MUCH} & yes err | head -c {MUCH} >&2; wait",
    )  # fmt: skip
    assert told.returncode == 0
    assert told.stdout == (b"out\n" * MUCH)[:MUCH]
    assert told.stderr == (b"err\n" * MUCH)[:MUCH]


@pytest.mark.parametrize("command", ["cat", "cat >&2"])
def test_any_bytes_go_through_both_ways(place: Site, command: str) -> None:
    sent = os.urandom(1_000_000) + bytes(range(256))
    told = place.call("ssh", "web", "--", command, stdin=sent)
    assert told.returncode == 0
    assert (told.stdout, told.stderr) == ((sent, b"") if command == "cat" else (b"", sent))


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("no-such-program 2>/dev/null", 127),
        ("exit 255", 255),
        ("kill -9 $$", 255),
    ],
)
def test_the_exit_status_is_the_commands(place: Site, command: str, status: int) -> None:
    """One that was killed has none; OpenSSH's client says 255 then, and so do we."""
    told = place.call("ssh", "web", "--", command)
    assert (told.returncode, told.stdout, told.stderr) == (status, b"", b"")


def test_whoever_stops_reading_ends_it_here_and_in_the_guest(place: Site) -> None:
    with place.open("ssh", "web", "--", "yes") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(DEADLINE) == 141
        assert process.stderr.read() == b""
    running = "pgrep -x yes || true"
    place.until(lambda: place.ssh("web", running) == "", "the guest's command has ended, too")


def test_whoever_stops_reading_its_errors_holds_up_nothing(place: Site) -> None:
    command = f"yes | head -c {MUCH} >&2; echo done"
    with place.open("ssh", "web", "--", command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"y\n"
        process.stderr.close()
        assert process.stdout.read() == b"done\n"
        assert process.wait(DEADLINE) == 0


def test_a_command_that_does_not_read_all_of_its_input_ends_without_it(place: Site) -> None:
    with place.open("ssh", "web", "--", "head -n 1") as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n" + bytes(MUCH // 100))
        process.stdin.flush()
        # Its other end stays open, as a terminal's does.
        assert process.wait(DEADLINE) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"one\n", b"")


def test_a_program_without_standard_input_is_one_whose_input_has_ended(place: Site) -> None:
    for command, output in ((["--", "cat; echo read"], b"read\n"), ([], b"")):
        told = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *place.words("ssh", "web", *command)],
            capture_output=True, timeout=DEADLINE, cwd=ROOT,
        )  # fmt: skip
        assert (told.returncode, told.stdout, told.stderr) == (0, output, b"")


def test_a_shell_without_a_terminal_takes_its_commands_from_standard_input(place: Site) -> None:
    told = place.call("ssh", "web", stdin=b"echo $((6*7))\nexit 3\n")
    assert (told.returncode, told.stdout) == (3, b"42\n")


def test_an_interrupt_ends_it_in_one_sentence(place: Site) -> None:
    with place.open("ssh", "web", "--", "echo begun; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert interrupted(process) == b""


def interrupted(process: subprocess.Popen[bytes]) -> bytes:
    """What it still says after Ctrl-C, which it leaves by as a shell expects, and without a word of Python's."""
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stderr is not None
    rest = process.stdout.read()
    assert process.wait(DEADLINE) == 128 + signal.SIGINT
    assert process.stderr.read().strip() == b"holdfast: interrupted"
    return rest


# logs


class Follower:
    """A `logs -f`, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.said = process, b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := os.read(self.process.stdout.fileno(), 1 << 16):
            self.said += piece

    def lines(self) -> list[str]:
        return self.said.decode().splitlines()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self._thread.join(DEADLINE)
        assert self.process.wait(DEADLINE) == 128 + signal.SIGINT
        assert self.process.stderr is not None
        assert self.process.stderr.read().strip() == b"holdfast: interrupted"


def resident(pid: int) -> int:
    """Bytes of memory that the process takes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) << 10


def test_a_guest_that_floods_its_console_fills_no_disk_and_holds_up_nobody(place: Site) -> None:
    console = place.paths.instance(place.item("web")["uid"]).console_log
    with place.open("logs", "-f", "web") as process:
        follower = Follower(process)
        place.until(lambda: "holdfast-guest: ready" in follower.said.decode(), "it follows")
        before = resident(process.pid)
        # As if it had been at it for a while: no test waits for 16 MiB at the speed of a serial line.
        with console.open("ab") as file:
            file.write(b"earlier\n" * ((CONSOLE_LIMIT - (256 << 10)) // 8))
        place.ssh(
            "web", "(seq 1000000 1100000; echo the; echo end) >/dev/ttyS0 2>/dev/null </dev/null &"
        )
        place.until(older(console).exists, "the log was cut")
        place.vm("web", more="labels: {while: flooding}")
        place.until(lambda: place.item("web")["labels"] == {"while": "flooding"}, "others go on")
        place.until(lambda: follower.said.endswith(b"the\nend\n"), "it has followed to the end")
        assert console.stat().st_size < CONSOLE_LIMIT
        assert older(console).stat().st_size <= CONSOLE_LIMIT // 2
        assert resident(process.pid) < before + (16 << 20)
        follower.interrupt()
    numbers = [int(line) for line in follower.lines() if re.fullmatch(r"1\d{6}", line)]
    assert numbers == sorted(numbers), "nothing comes twice"
    assert len(numbers) > 50_000, "and little is lost to the cut"


def test_a_log_is_followed_through_restart_and_replacement_to_its_end(tiny: Site) -> None:
    tiny.vm("web")
    with tiny.agent():
        item = tiny.ready("web")
        with tiny.open("logs", "-f", "web") as process:
            follower = Follower(process)
            for number in (1, 2, 3):
                tiny.ssh("web", f"(echo; echo boot-{number}) >/dev/ttyS0")
                tiny.until(lambda: f"boot-{number}" in follower.lines(), "it is told")  # noqa: B023
                if number == 1:
                    tiny.kill(item["pid"])
                    tiny.ready("web", restarts=1)
                elif number == 2:
                    tiny.vm("web", memory="160MiB")
                    tiny.ready("web", generation=2)
            tiny.delete("web")
            follower.process.wait(DEADLINE)
            assert follower.process.returncode == 0
        lines = follower.lines()
    assert [line for line in lines if line.startswith("boot-")] == ["boot-1", "boot-2", "boot-3"]
    assert lines.count("holdfast-guest: ready") == 3
    assert lines.count("holdfast-guest: power button") == 2, "last words are told"
    assert "\\r" not in follower.said.decode()


# console


def typed(terminal: int, words: bytes, answer: bytes) -> bytes:
    """Type, and read until the answer is there."""
    os.write(terminal, words)
    said = b""
    while answer not in said:
        ready, _, _ = select.select([terminal], [], [], DEADLINE)
        assert ready, said
        said += os.read(terminal, 1 << 16)
    return said


def test_a_console_is_typed_into_left_by_its_key_and_had_by_one_at_a_time(place: Site) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    try:
        with place.open("console", "web", stdin=theirs, stdout=theirs, stderr=theirs) as process:
            typed(ours, b"", b"console of web; Ctrl-] leaves")
            typed(ours, b"echo $((6*7))-typed\r", b"42-typed")
            second = place.call("console", "web")
            assert (second.returncode, second.stdout) == (1, b"")
            assert second.stderr == (
                b"holdfast: opening the console of web: somebody else has it"
                b" (one client at a time can; Ctrl-] leaves)\n"
            )
            os.write(ours, b"\x1d")
            assert process.wait(DEADLINE) == 0
        assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    finally:
        os.close(ours)
        os.close(theirs)
    third = place.call("console", "web", stdin=b"echo $((2*3))-again\n")
    assert (third.returncode, third.stderr) == (0, b"")
    assert b"6-again" in third.stdout


def test_ssh_and_console_of_what_does_not_run_say_so_in_one_sentence(tiny: Site) -> None:
    tiny.vm("web", more="power: stopped")
    with tiny.agent():
        tiny.until(lambda: tiny.item("web"), "it is known")
        for command in ("console", "ssh"):
            told = tiny.call(command, "web")
            assert (told.returncode, told.stdout) == (1, b"")
            assert told.stderr.decode() == (
                "holdfast: web does not run just now: Stopped: power is stopped, and it was never"
                f" started (see `holdfast explain --state {tiny.state} web`)\n"
            )


def test_a_console_ends_with_its_machine(tiny: Site) -> None:
    tiny.vm("web", more="restart: never")
    with tiny.agent():
        item = tiny.ready("web")
        with tiny.open("console", "web") as process:
            assert process.stdin is not None
            process.stdin.write(b"echo $((6*7))-typed\n")
            process.stdin.flush()
            said = b""
            while b"42-typed" not in said:
                assert process.stdout is not None
                said += os.read(process.stdout.fileno(), 1 << 16)
            tiny.kill(item["pid"])
            assert process.wait(DEADLINE) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
