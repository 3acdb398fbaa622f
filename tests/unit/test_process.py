"""Processes are recognised by more than their pid, and signalled only through what cannot be mistaken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StartFailed, StopFailed
from agent.hypervisor.qemu import process
from agent.hypervisor.qemu.process import Handle
from state.ids import Process
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
BOOT = process.boot_id()


@contextmanager
def sleeper(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing for a minute."""
    child = subprocess.Popen([*words, "sleep", "60"])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def identified(pid: int) -> Process:
    found = process.identify(pid, BOOT)
    assert found is not None
    return found


def test_a_name_with_blanks_and_parentheses_hides_no_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        ours = identified(os.getpid())
        assert (
            0
            < ours.start_ticks
            <= identified(child.pid).start_ticks
            < ours.start_ticks + 60 * 60 * 24 * 100
        )
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    "change",
    [{"start_ticks": 1}, {"boot_id": "another"}, {"pid": 2**22 - 1}, {"pid": 0}, {"pid": -1}],
)
def test_a_process_that_differs_in_one_thing_is_another(change: dict[str, int]) -> None:
    ours = identified(os.getpid())
    held = Handle.hold(ours)
    assert held is not None
    held.close()
    assert Handle.hold(replace(ours, **change)) is None  # type: ignore[arg-type]  # of mixed types


REUSE = """\
import subprocess
from pathlib import Path
from agent.hypervisor.qemu.process import Handle, identify

def child():
    return subprocess.Popen(["sleep", "60"])

def end(process):
    process.kill()
    process.wait()

first = child()
was = identify(first.pid, "boot")
end(first)
while True:  # until a tick of the clock that start times are told in has passed
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
    again = child()
    assert again.pid == first.pid
    if identify(again.pid, "boot") != was:
        break
    end(again)
held = Handle.hold(was)
end(again)
print(held)
"""


def test_a_pid_that_the_kernel_gave_to_another_process_is_not_taken_for_the_one_before() -> None:
    """A pid namespace of its own, where the next pid can be chosen. Sabotage: compare the pid alone."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable]
    told = subprocess.run([*words, "-c", REUSE], capture_output=True, text=True, cwd=ROOT)
    if told.returncode and told.stderr.startswith("unshare:"):
        pytest.skip(f"no /proc of its own can be mounted here: {told.stderr}")
    assert (told.stdout, told.stderr) == ("None\n", "")


def test_a_zombie_is_gone() -> None:
    with sleeper() as child:
        who = identified(child.pid)
        held = Handle.hold(who)
        assert held is not None
        held.signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.identify(child.pid, BOOT) == who
        assert held.over()
        assert Handle.hold(who) is None
        held.close()


async def test_a_process_stands_still_from_its_stop_until_it_goes_on() -> None:
    """Sabotage: leave open what was opened to look at it."""
    open_before = len(os.listdir("/proc/self/fd"))
    with sleeper() as child, sleeper() as other:
        held, unseen = Handle.hold(identified(child.pid)), Handle.hold(identified(other.pid))
        assert held is not None
        assert unseen is not None
        assert not held.stands_still()
        held.signal(signal.SIGSTOP)
        await eventually(held.stands_still, "it is stopped")
        held.signal(signal.SIGCONT)
        await eventually(lambda: not held.stands_still(), "it goes on")
        held.signal(signal.SIGSTOP)
        await eventually(held.stands_still, "it is stopped")
        for sleeping in (child, other):
            sleeping.kill()
            sleeping.wait()
        for one in (held, unseen):
            assert not one.stands_still()
            one.close()
            assert not one.stands_still()
    assert len(os.listdir("/proc/self/fd")) == open_before


async def test_an_end_is_seen_by_all_who_wait_and_told_to_the_parent() -> None:
    output = os.open(os.devnull, os.O_WRONLY)
    pid = process.launch([sys.executable, "-c", "raise SystemExit(7)"], inherit=(), output=output)
    os.close(output)
    held = Handle.hold_child(pid)
    await held.ended()
    assert await held.ended_within(0.0)
    assert held.reap() == 7
    assert held.reap() == 7
    assert process.ending(7) == "exited with status 7"
    held.close()
    assert held.over()
    held.signal(signal.SIGTERM)


async def test_a_launched_process_leads_a_session_and_inherits_what_it_was_given(
    tmp_path: Path,
) -> None:
    given, kept = os.pipe(), os.pipe()
    output = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    script = (
        "import os,sys,resource; print(os.getsid(0)==os.getpid(), os.getcwd(), oct(os.umask(0)), sorted(os.environ),"
        "os.read(0,1), sorted(int(f) for f in os.listdir('/proc/self/fd') if int(f) > 2))"
    )
    pid = process.launch([sys.executable, "-E", "-c", script], inherit=(given[0],), output=output)
    held = Handle.hold_child(pid)
    await held.ended()
    assert held.reap() == 0
    said = (tmp_path / "log").read_text()
    assert said.startswith("True / 0o77 ")
    assert "'LC_ALL', " in said
    assert "HOME" not in said
    assert "b''" in said
    assert str(given[0]) in said.rpartition("[")[2]
    assert str(kept[0]) not in said.rpartition("[")[2]
    held.close()
    for descriptor in (*given, *kept, output):
        os.close(descriptor)


def test_a_program_that_is_not_there_is_a_failed_start() -> None:
    with pytest.raises(StartFailed, match="no-such-program"):
        process.launch(["/no-such-program"], inherit=(), output=1)


def test_a_signal_is_told_by_its_name() -> None:
    assert process.ending(-9) == "killed by SIGKILL"
    assert process.ending(-200) == "killed by signal 200"


async def test_processes_are_found_by_their_words() -> None:
    with sleeper("env", "-i", "HOLDFAST=1") as child:
        await eventually(
            lambda: process.command_line(child.pid) == ["sleep", "60"], "env became sleep"
        )
        found = list(process.with_command_line(lambda words: words == ["sleep", "60"], b"sleep"))
        assert child.pid in found
        assert process.owner(child.pid) == os.geteuid()
    assert process.command_line(child.pid) == []
    assert process.owner(child.pid) is None
    assert process.identify(child.pid, BOOT) is None


async def test_what_was_let_go_of_alive_is_neither_signalled_nor_waited_for() -> None:
    """Sabotage: take a closed handle for a process that has ended. A SIGKILL is then thought to have been sent."""
    with sleeper() as child:
        held = Handle.hold(identified(child.pid))
        assert held is not None
        held.close()
        assert held.closed
        await held.ended()
        assert not await held.ended_within(60.0)
        assert held.reap() is None
        with pytest.raises(StopFailed, match=f"SIGTERM was not sent to process {child.pid}"):
            held.signal(signal.SIGTERM)
        assert child.poll() is None


HIDDEN = """
import os, sys
from agent.hypervisor.qemu import process
os.setgroups([])
os.setresgid(60900, 60900, 60900)  # proc(5): group 0 is shown everything
os.setresuid(60900, 60900, 60900)
sleeper = int(sys.argv[1])
assert os.getpid() in process.with_command_line(lambda words: True, b"")
assert sleeper not in process.with_command_line(lambda words: True, b"")
try:
    process.identify(sleeper, process.boot_id())
except PermissionError:
    print("not told")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a /proc of its own")
def test_processes_that_a_user_may_not_look_at_are_passed_over_and_not_taken_for_gone() -> None:
    """proc(5): with `hidepid=1` the processes of others are there, and their files may not be read."""
    with sleeper() as child:
        mounted = subprocess.run(
            ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=1 proc /proc && exec "$@"',
             "sh", sys.executable, "-c", HIDDEN, str(child.pid)],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    if mounted.returncode and ("mount:" in mounted.stderr or "unshare:" in mounted.stderr):
        pytest.skip(f"no /proc of its own can be mounted here: {mounted.stderr}")
    assert (mounted.stdout, mounted.returncode) == ("not told\n", 0), mounted.stderr
