"""Jobs as a shell sees them: `job`, `logs`, `status`, `explain`, `plan`, `run --once` and `down`, with and without an
agent."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.paths import StatePaths
from agent.statedir import holder
from tests.unit.test_commands import DOCUMENTS, FULL, ROOT, Call, caller, until

JOB = """\
---
api: holdfast/v1
kind: job
name: tests
runs_on: tiny
script: |
  #!/bin/sh
  make test
"""
RUN = "run --hypervisor memory --desired tree"
NEXT = "; the next agent sees to it (`holdfast run`)"

FOR_EVER = """
from agent.cli import main
from agent.hypervisor.memory.work import Scripted
from agent.hypervisor.memory.world import MemoryWorld

MemoryWorld.script_of = lambda *_: Scripted(exit_code=None)
main()
"""
"""An agent whose scripts never end."""


def plant(root: Path) -> None:
    tree = root / "tree"
    tree.mkdir()
    (tree / "all.yaml").write_text(DOCUMENTS + JOB)
    (tree / "tiny.qcow2").touch()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where an agent has run the job once, and what it said to its standard output."""
    root = tmp_path_factory.mktemp("ran")
    plant(root)
    told = caller(root)(f"{RUN} --once")
    assert told.returncode == 0, told.stderr
    return root, told.stdout


@pytest.fixture
def holdfast(ran: tuple[Path, str], tmp_path: Path) -> Call:
    """Commands where an agent has run the job once."""
    plant(tmp_path)
    shutil.copytree(ran[0] / "state", tmp_path / "state", ignore=lambda *_: {"run"})
    return caller(tmp_path)


@contextmanager
def an_agent(
    root: Path, *words: str, program: tuple[str, str] = ("-m", "agent"), run: str = RUN
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that holds the state directory, until it is told to leave or the block ends."""
    environment = os.environ | {"HOLDFAST_STATE": str(root / "state"), "PYTHONPATH": str(ROOT)}
    state = StatePaths(root / "state")
    with subprocess.Popen(
        [sys.executable, *program, *run.split(), *words],
        cwd=root, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    ) as agent:  # fmt: skip
        try:
            until(lambda: holder(state) == agent.pid)
            yield agent
        finally:
            agent.terminate()
            try:
                agent.wait(30)
            finally:
                agent.kill()


def history(holdfast: Call) -> list[dict[str, object]]:
    return list(json.loads(holdfast("job history tests -o json").stdout))


def phases(holdfast: Call) -> list[object]:
    """Of every run, the latest first."""
    return [run["phase"] for run in history(holdfast)]


# Again, and the end


def test_a_job_is_run_again_by_the_next_agent(holdfast: Call) -> None:
    told = holdfast("job rerun tests")
    assert (told.returncode, told.stdout) == (0, f"tests: run 2 is queued{NEXT}\n")
    assert "run 2 is queued" in holdfast("job rerun tests").stderr
    assert "no agent has looked at it yet" in holdfast("status tests").stdout
    assert holdfast(f"{RUN} --once").returncode == 0
    assert phases(holdfast) == ["succeeded", "succeeded"]


def test_a_run_is_cancelled_by_the_next_agent_and_its_exit_status_tells(holdfast: Call) -> None:
    holdfast("job rerun tests")
    told = holdfast("job cancel tests")
    assert (told.returncode, told.stdout) == (0, f"tests: run 2 is to be cancelled{NEXT}\n")
    assert "Cancelling: it was cancelled by hand" in holdfast("status").stdout
    once = holdfast(f"{RUN} --once")
    assert once.returncode == 1
    assert "tests: run 2: cancelled: it was cancelled by hand\n" in once.stdout
    assert phases(holdfast) == ["cancelled", "succeeded"]


def test_commands_that_are_told_name_the_state_that_was_given(holdfast: Call) -> None:
    told = holdfast("job artifacts tests --run 9 --state state")
    assert told.stderr == (
        "holdfast: tests has no run `9` (`holdfast job history --state state tests` lists them)\n"
    )
    told = holdfast("job rerun tests --state state")
    assert told.stdout.endswith("; the next agent sees to it (`holdfast run --state state`)\n")


def test_a_live_agent_does_it(holdfast: Call, tmp_path: Path) -> None:
    with an_agent(tmp_path, "--capacity-map", "tiny=0"):
        assert holdfast("job rerun tests").stdout == "tests: run 2 is queued\n"
        until(lambda: "capacity: tiny 0 of 0" in holdfast("status").stdout)
        plan = holdfast("plan")
        assert plan.returncode in (0, 2)
        assert "tests: " in plan.stdout
        assert holdfast("job cancel tests").stdout == "tests: run 2 is to be cancelled\n"
        until(lambda: phases(holdfast) == ["cancelled", "succeeded"])
        refused = holdfast("job cancel tests")
        assert (refused.returncode, refused.stderr) == (
            1, "holdfast: tests has no run to cancel: run 2 has ended (cancelled)\n"
        )  # fmt: skip


def test_an_agent_that_was_killed_leaves_nothing_in_the_way(holdfast: Call, tmp_path: Path) -> None:
    api = StatePaths(tmp_path / "state").api_socket
    with an_agent(tmp_path) as killed:
        until(api.exists)
        killed.kill()
        killed.wait(30)
    assert api.exists()
    assert holdfast("job rerun tests").stdout == f"tests: run 2 is queued{NEXT}\n"
    with an_agent(tmp_path):
        until(lambda: phases(holdfast) == ["succeeded", "succeeded"])
        assert holdfast("job rerun tests").stdout == "tests: run 3 is queued\n"
        until(lambda: phases(holdfast)[0] == "succeeded" and len(phases(holdfast)) == 3)
    assert not api.exists()


def test_commands_beside_each_other_take_turns(holdfast: Call, tmp_path: Path) -> None:
    """Sabotage: say that the state directory is in use."""
    environment = os.environ | {"HOLDFAST_STATE": str(tmp_path / "state")}
    many = [
        subprocess.Popen(
            [sys.executable, "-m", "agent", "job", "rerun", "tests"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    said = [one.communicate(timeout=60) for one in many]
    assert sorted(one.returncode for one in many) == [0, 1, 1], said
    assert all("in use" not in errors and "held by" not in errors for _, errors in said)


@pytest.mark.parametrize("words", ["job rerun none", "job cancel none"])
def test_what_was_never_run_is_told(holdfast: Call, words: str) -> None:
    told = holdfast(words)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        "holdfast: there is no run of a job `none` here"
        " (a job runs by itself once its document is committed)\n"
    )


@pytest.mark.parametrize("words", ["rerun", "cancel", "history", "artifacts"])
def test_where_there_is_no_state_none_is_made(tmp_path: Path, words: str) -> None:
    told = caller(tmp_path)(f"job {words} tests")
    assert (told.returncode, told.stdout) == (1, "")
    assert "there is no state database yet" in told.stderr
    assert not (tmp_path / "state").exists()


# What is kept


def test_the_history_has_every_run_the_latest_first(holdfast: Call) -> None:
    holdfast("job rerun tests")
    runs = history(holdfast)
    assert [(run["number"], run["phase"], run["exit_code"]) for run in runs] == [
        (2, "queued", None), (1, "succeeded", 0),
    ]  # fmt: skip
    head, second, first = holdfast("job history tests").stdout.splitlines()
    assert head.split() == [
        "RUN", "PHASE", "ATTEMPTS", "EXIT", "QUEUED", "TOOK", "REASON", "ID",
    ]  # fmt: skip
    assert second.split()[:2] == ["2", "queued"]
    assert first.split()[:4] == ["1", "succeeded", "1", "0"]
    assert first.split()[-1] == runs[1]["run"]
    assert holdfast("job history none").returncode == 1


def with_artifacts(root: Path) -> dict[str, object]:
    """Artifacts of the first run, in the ledger and on disk."""
    import sqlite3

    left = [
        {"path": "/root/report/a.xml", "file": "root/report/a.xml", "size": 5, "sha256": "a" * 64},
        {"path": "/root/\x1b[31m", "file": "root/\x1b[31m", "size": 7, "sha256": "b" * 64},
    ]
    with sqlite3.connect(root / "state" / "state.db") as ledger:
        ledger.execute(
            "UPDATE runs SET artifacts = ?, notes = ? WHERE number = 1",
            [json.dumps(left), json.dumps(["/root/big was left out"])],
        )
    ledger.close()
    return left[0]


def test_artifacts_are_listed_with_where_they_lie(holdfast: Call, tmp_path: Path) -> None:
    first = with_artifacts(tmp_path)
    [run] = history(holdfast)
    path = tmp_path / "state" / "runs" / str(run["run"]) / "artifacts" / str(first["file"])
    told = json.loads(holdfast("job artifacts tests -o json").stdout)
    assert told[0] == {
        "name": first["file"], "size": 5, "sha256": "a" * 64, "path": str(path),
        "guest_path": first["path"],
    }  # fmt: skip
    text = holdfast("job artifacts tests --run 1")
    lines = text.stdout.splitlines()
    assert lines[0] == f"{first['file']}  5  {'a' * 64}  {path}"
    assert "\\x1b[31m" in lines[1]
    assert "\x1b" not in text.stdout
    assert text.stderr == "note: /root/big was left out\n"


def test_a_run_without_artifacts_says_so(holdfast: Call) -> None:
    told = holdfast("job artifacts tests")
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == "run 1 of tests left no artifacts\n"
    assert holdfast("job artifacts tests -o json").stdout == "[]\n"


# Its log


def log_of(root: Path, holdfast: Call) -> Path:
    return root / "state" / "runs" / str(history(holdfast)[0]["run"]) / "log"


def test_the_log_is_that_of_the_latest_run_and_harmless(holdfast: Call, tmp_path: Path) -> None:
    log = log_of(tmp_path, holdfast)
    assert holdfast("logs tests").stdout == log.read_text()
    log.write_bytes(b"one\r\ntwo\x1b[2J \xff\nfor\xc5")
    assert holdfast("logs tests").stdout == "one\ntwo\\x1b[2J \ufffd\nfor\ufffd"
    holdfast("job rerun tests")
    told = holdfast("logs tests")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        "holdfast: run 2 of tests has said nothing: it is queued (see `holdfast explain tests`)\n"
    )


@pytest.mark.parametrize("how", ["its number", "its id", "the beginning of its id"])
def test_another_run_is_meant_by(holdfast: Call, how: str) -> None:
    run = str(history(holdfast)[0]["run"])
    said = {"its number": "1", "its id": run, "the beginning of its id": run[:6]}[how]
    holdfast("job rerun tests")
    assert "script ran in memory" in holdfast(f"logs tests --run {said}").stdout


@pytest.mark.parametrize("said", ["2", "ffffffff", "x", "-1"])
def test_a_run_that_is_not_there_is_told(holdfast: Call, said: str) -> None:
    told = holdfast(f"logs tests --run={said}")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        f"holdfast: tests has no run `{said}` (`holdfast job history tests` lists them)\n"
    )


def test_what_has_no_log_is_told(holdfast: Call) -> None:
    assert "there is no VM or job `none` here" in holdfast("logs none").stderr
    assert "tests has no VM just now" in holdfast("logs tests --console").stderr
    assert "tests has no VM just now: its run 1 is succeeded" in holdfast("ssh tests").stderr
    both = holdfast("logs tests --console --qemu")
    assert both.returncode == 64
    assert "exclude each other" in both.stderr


class Followed:
    """A `logs -f` under way, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def says(self, text: bytes) -> None:
        """Wait until that is all it has said."""
        until(lambda: self._output.read_bytes() == text or self.process.poll() is not None)
        assert self._output.read_bytes() == text


@pytest.fixture
def follow(tmp_path: Path, holdfast: Call) -> Iterator[Callable[[], Followed]]:
    """Begins to follow the job's log."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin() -> Followed:
        output = tmp_path / "followed"
        environment = os.environ | {"HOLDFAST_STATE": str(tmp_path / "state")}
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "agent", "logs", "-f", "tests"],
                cwd=ROOT, env=environment, stdout=file,
            )  # fmt: skip
        processes.append(process)
        return Followed(process, output)

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_a_log_is_followed_until_its_run_has_ended(
    holdfast: Call, tmp_path: Path, follow: Callable[[], Followed]
) -> None:
    """The agent is killed meanwhile, and the next one cuts the log and writes the same again: what was shown is not
    shown twice. Sabotage: go back to the start of a log that became shorter."""
    holdfast("job rerun tests")
    log = log_of(tmp_path, holdfast)
    followed = follow()
    followed.says(b"")
    log.write_bytes(b"one\ntw")
    followed.says(b"one\ntw")
    os.truncate(log, 4)
    log.with_name("look").touch()
    with log.open("ab") as file:
        file.write(b"two\nthree\n\xc5")
    followed.says(b"one\ntwo\nthree\n")
    with log.open("ab") as file:
        file.write(b"\x82\n")
    followed.says("one\ntwo\nthree\nł\n".encode())
    assert followed.process.poll() is None
    holdfast("job cancel tests")
    assert holdfast(f"{RUN} --once").returncode == 1
    assert followed.process.wait(30) == 0


def test_the_log_of_a_run_that_an_agent_brings_to_its_end_is_followed_whole(
    holdfast: Call, tmp_path: Path, follow: Callable[[], Followed]
) -> None:
    holdfast("job rerun tests")
    followed = follow()
    assert holdfast(f"{RUN} --once").returncode == 0
    assert followed.process.wait(30) == 0
    followed.says(log_of(tmp_path, holdfast).read_bytes())


# What is told of it


def test_the_status_of_a_job_is_exactly_as_the_contract_has_it(
    holdfast: Call, tmp_path: Path
) -> None:
    [job] = [
        one
        for one in json.loads(holdfast("status -o json").stdout)["items"]
        if one["kind"] == "job"
    ]
    [run] = history(holdfast)
    contract = {
        "kind": "job", "name": "tests", "run": run["run"], "phase": "succeeded", "exit_code": 0,
        "attempt": 1, "queued_at": run["queued_at"], "started_at": run["started_at"],
        "ended_at": run["ended_at"], "artifacts": [],
        "log": str(tmp_path / "state" / "runs" / str(run["run"]) / "log"),
    }  # fmt: skip
    assert job | contract == job
    holdfast("job rerun tests")
    [queued] = json.loads(holdfast("status tests -o json").stdout)["items"]
    assert (queued["phase"], queued["exit_code"], queued["attempt"]) == ("queued", None, 0)
    assert queued.keys() == job.keys()


def test_the_status_is_read_at_once(holdfast: Call) -> None:
    lines = holdfast("status").stdout.splitlines()
    assert lines[2].split() == [
        "JOB", "RUN", "PHASE", "ATTEMPT", "EXIT", "AGE", "TOOK", "REASON",
    ]  # fmt: skip
    words = lines[3].split()
    assert words[:5] == ["tests", "1", "succeeded", "1", "0"]
    assert all(re.fullmatch(r"[0-9.]+s|[0-9]+m[0-9]{2}s", word) for word in words[5:7])
    assert words[7:] == ["Succeeded"]
    alone = holdfast("status tests").stdout.splitlines()
    assert [line.split()[0] for line in alone if line.strip()] == [
        "JOB", "tests", "RUN", "1", "agent:",
    ]  # fmt: skip


def test_a_job_whose_document_is_gone_has_its_history_still(holdfast: Call, tmp_path: Path) -> None:
    (tmp_path / "tree" / "all.yaml").write_text(DOCUMENTS)
    assert holdfast(f"{RUN} --once").returncode == 0
    told = holdfast("status tests")
    assert told.returncode == 1
    assert "(its past runs: `holdfast job history tests`)" in told.stderr
    assert phases(holdfast) == ["succeeded"]


def test_a_job_is_explained(holdfast: Call, tmp_path: Path) -> None:
    with_artifacts(tmp_path)
    [run] = history(holdfast)
    told = holdfast("explain tests").stdout
    assert told.startswith("tests is succeeded: Succeeded\n  document    all.yaml:12\n")
    for line in (
        f"  run         1, id {run['run']}, queued at {run['queued_at']}\n",
        "  attempt     1\n",
        "  exit code   0\n",
        f"  log         {tmp_path}/state/runs/{run['run']}/log\n",
        "  artifact    /root/report/a.xml -> ",
        "  note        /root/big was left out\n",
        " run: attempt 1 of run 1: done\n",
        " RunSucceeded: run 1: exit code 0\n",
    ):
        assert line in told
    assert "\x1b" not in told
    holdfast("job rerun tests")
    assert "  attempt     none yet\n" in holdfast("explain tests").stdout
    assert json.loads(holdfast("explain tests -o json").stdout)["item"]["kind"] == "job"


def test_a_plan_says_what_becomes_of_a_job(holdfast: Call, tmp_path: Path) -> None:
    (tmp_path / "tree" / "all.yaml").write_text(
        DOCUMENTS + JOB + JOB.replace("tests", "more") + JOB.replace("tests", "others")
    )
    told = holdfast("plan --desired tree --max-concurrency 1")
    assert "  keep tests: exit code 0  [all.yaml:12]\n" in told.stdout
    assert "+ run more: run 1 is queued: its image is fetched" in told.stdout
    steps = json.loads(holdfast("plan --desired tree -o json").stdout)["steps"]
    assert {one["name"]: (one["kind"], one["action"]) for one in steps} == {
        "web": ("vm", "restart"), "tests": ("job", "keep"), "more": ("job", "run"),
        "others": ("job", "run"),
    }  # fmt: skip


@pytest.mark.parametrize("words", ["events tests", "job history tests", "job artifacts tests"])
def test_a_full_disk_behind_its_output_is_one_sentence(
    holdfast: Call, tmp_path: Path, words: str
) -> None:
    with_artifacts(tmp_path)
    with open("/dev/full", "w") as full:
        told = holdfast(words, stdout=full)
    assert (told.returncode, told.stderr.splitlines()[-1] + "\n") == (1, FULL)


# Options


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--capacity-map tiny", "'tiny' is no label with a number (write LABEL=N"),
        ("--capacity-map tiny=-1", "'tiny=-1' is no label with a number"),
        ("--capacity-map =1", "'=1' is no label with a number"),
        ("--capacity-map tiny=1,", "'' is no label with a number"),
        ("--capacity-map tiny=1 --capacity-map x", "'x' is no label with a number"),
        ("--max-concurrency 0", "0 is not in the range x>=1"),
        ("--max-concurrency two", "'two' is not a valid integer"),
        ("--drain-timeout 60", "`60` is no time (write a whole number and"),
        ("--drain-timeout soon", "`soon` is no time"),
    ],
)
def test_what_an_option_cannot_mean_is_an_error_of_usage(
    tmp_path: Path, command: str, words: str, said: str
) -> None:
    plant(tmp_path)
    told = caller(tmp_path)(f"{command} --desired tree {words}")
    assert (told.returncode, told.stdout) == (64, "")
    assert said in told.stderr
    assert not (tmp_path / "state").exists()


def test_a_configuration_says_them_too(tmp_path: Path) -> None:
    plant(tmp_path)
    config = tmp_path / "config.yaml"
    for text in ("tiny=0,x=2", "[tiny=0, x=2]"):
        config.write_text(
            f"desired: tree\ncapacity_map: {text}\nmax_concurrency: 3\ndrain_timeout: 2m\n"
        )
        assert caller(tmp_path)("plan --config config.yaml").returncode == 2
    config.write_text("desired: tree\ncapacity_map: tiny\n")
    assert caller(tmp_path)("plan --config config.yaml").returncode == 64


# run --once


def test_each_change_of_phase_is_one_line(ran: tuple[Path, str]) -> None:
    assert ran[1].splitlines() == [
        "tests: run 1: queued",
        "tests: run 1: booting",
        "tests: run 1: running",
        "tests: run 1: succeeded: exit code 0",
    ]


def test_on_a_terminal_it_stands_with_its_last_line(tmp_path: Path) -> None:
    plant(tmp_path)
    reader, terminal = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    words = [sys.executable, "-m", "agent", *RUN.split(), "--once"]
    settings = {"HOLDFAST_STATE": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env=os.environ | settings | environment,
        stdout=terminal,
        stderr=terminal,
    ) as agent:
        os.close(terminal)
        said = b""
        with suppress(OSError):  # EIO: it has ended
            while piece := os.read(reader, 1 << 16):
                said += piece
        os.close(reader)
        assert agent.wait(30) == 0, said
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said).decode()
    assert "booting" in text
    last = [line.split() for line in text.splitlines() if line.startswith("tests ")][-1]
    assert last[:2] == ["tests", "succeeded"]
    assert " ".join(last[3:]) == "exit code 0"
    assert "RunSucceeded" in text


def test_an_output_that_takes_no_more_stops_no_agent(tmp_path: Path) -> None:
    """Sabotage: let the error through. It meets the record of the run as a bug."""
    plant(tmp_path)
    with open("/dev/full", "w") as full:
        told = caller(tmp_path)(f"{RUN} --once", stdout=full)
    assert told.returncode == 0
    assert "Bug" not in told.stderr
    assert phases(caller(tmp_path)) == ["succeeded"]


# The end of all


def test_down_cancels_what_has_not_ended(holdfast: Call, tmp_path: Path) -> None:
    holdfast("job rerun tests")
    told = holdfast("down --yes")
    assert (told.returncode, told.stdout) == (0, "cancelled: tests\ndestroyed: web\n")
    [run, _] = history(holdfast)
    assert (run["phase"], run["message"]) == ("cancelled", "holdfast down")
    result = tmp_path / "state" / "runs" / str(run["run"]) / "result.json"
    assert json.loads(result.read_text())["phase"] == "cancelled"


def test_down_has_a_live_agent_cancel_its_runs(holdfast: Call, tmp_path: Path) -> None:
    """Sabotage: send signals alone. The runs are interrupted, and nobody is told who wanted that."""
    with an_agent(tmp_path, "--drain-timeout", "1h", program=("-c", FOR_EVER)) as agent:
        holdfast("job rerun tests")
        until(lambda: phases(holdfast)[0] == "running")
        told = holdfast("down --yes")
        assert (told.returncode, told.stderr) == (0, "")
        assert agent.wait(30) in (0, -signal.SIGTERM)
    [run, _] = history(holdfast)
    assert run["phase"] == "cancelled"
    result = tmp_path / "state" / "runs" / str(run["run"]) / "result.json"
    assert json.loads(result.read_text())["phase"] == "cancelled"
    assert list((tmp_path / "state" / "instances").iterdir()) == []
