"""Every command as a shell sees it: what it says where, and its exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli import holdfast as program
from agent.errors import StateUnusable
from agent.paths import StatePaths
from state.ledger import Ledger
from tests import zygote
from tests.unit.test_directory_hostile import open_path as open_path
from tests.unit.test_directory_hostile import without_privileges

ROOT = Path(__file__).parents[2]
DOCUMENTS = """\
api: holdfast/v1
kind: images
name: default
default_label: tiny
images:
  tiny: {source: tiny.qcow2, sha256: "%s", ssh_user: tiny}
---
api: holdfast/v1
kind: vm
name: web
""" % ("1" * 64)  # fmt: skip
BROKEN = "api: holdfast/v1\nkind: vm\nname: db\nmemry: 1GiB\n"
FULL = "holdfast: writing to standard output: No space left on device\n"

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def plant(root: Path) -> Path:
    """A tree with one vm."""
    tree = root / "tree"
    tree.mkdir()
    (tree / "all.yaml").write_text(DOCUMENTS)
    (tree / "tiny.qcow2").touch()
    return tree


def caller(root: Path) -> Call:
    """Runs one command in `root`, on the state `state` there."""
    settings = {"HOLDFAST_STATE": str(root / "state"), "PYTHONPATH": str(ROOT)}

    def call(words: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        whole = os.environ | settings | (env or {})
        if not more and not any(name.startswith("PYTHON") for name in env or ()):
            done = zygote.call(words.split(), env=whole, cwd=root)
            said, complained = done.stdout.decode(), done.stderr.decode()
            return subprocess.CompletedProcess(done.args, done.returncode, said, complained)
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.run(
            [sys.executable, "-m", "agent", *words.split()],
            text=True, cwd=root, env=whole, check=False, **more,
        )  # fmt: skip

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path)


@pytest.fixture
def holdfast(tmp_path: Path, tree: Path) -> Call:
    return caller(tmp_path)


def run_once(root: Path) -> None:
    told = caller(root)("run --once --hypervisor memory --desired tree")
    assert told.returncode == 0, told.stderr


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an agent has run."""
    root = tmp_path_factory.mktemp("once")
    plant(root)
    run_once(root)
    return root


@pytest.fixture
def settled(once: Path, tmp_path: Path) -> None:
    """The state is that of an agent that has run."""
    shutil.copytree(once / "state", tmp_path / "state")


# Where what is said cannot be written

STATELESS = ["--help", "--version", "schema", "validate tree -o json", "plan --desired tree"]
WITH_STATE = [
    "status", "status -o json", "explain web", "explain web -o json", "events", "events -o json",
    "plan", "plan -o json", "down --yes",
]  # fmt: skip


@pytest.mark.parametrize("words", STATELESS)
def test_a_full_disk_behind_its_output_is_one_sentence(holdfast: Call, words: str) -> None:
    """Sabotage: let the OSError through. It is called a bug of holdfast then."""
    with open("/dev/full", "w") as full:
        told = holdfast(words, stdout=full)
    assert (told.returncode, told.stderr) == (1, FULL)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("words", WITH_STATE)
def test_so_it_is_with_a_state(holdfast: Call, words: str) -> None:
    with open("/dev/full", "w") as full:
        told = holdfast(words, stdout=full)
    assert (told.returncode, told.stderr) == (1, FULL)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("words", WITH_STATE)
def test_a_reader_who_has_seen_enough_is_no_error(holdfast: Call, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told = holdfast(words, stdout=writer)
    os.close(writer)
    assert (told.returncode, told.stderr) == (141, "")


@pytest.mark.usefixtures("settled")
def test_what_keeps_once_from_being_well_is_its_last_word(holdfast: Call, tree: Path) -> None:
    """Sabotage: leave it at the exit status."""
    (tree / "broken.yaml").write_text("api: holdfast/v1\nkind: vm\nname: db\nmemry: 1GiB\n")
    told = holdfast("run --once --hypervisor memory --desired tree")
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert told.returncode == 1
    [why] = [line["message"] for line in lines if line["event"] == "NotAsWanted"]
    assert "db: broken.yaml:4:1: unknown key `memry`" in why


@pytest.mark.usefixtures("settled")
def test_a_plan_says_that_an_empty_tree_proves_nothing_and_what_does(
    holdfast: Call, tree: Path
) -> None:
    for document in tree.rglob("*.yaml"):
        document.unlink()
    told = holdfast("plan --hypervisor memory --desired tree")
    assert "! nothing is destroyed: the tree has no documents" in told.stdout
    assert "`holdfast down` destroys what it had" in told.stdout


def test_an_error_that_cannot_be_told_keeps_its_exit_status(holdfast: Call) -> None:
    with open("/dev/full", "w") as full:
        assert holdfast("plan --nonsense", stderr=full).returncode == 64
        assert holdfast("status", stderr=full, stdout=full).returncode == 1


@pytest.mark.usefixtures("settled")
def test_a_full_disk_behind_its_log_stops_no_agent(holdfast: Call) -> None:
    with open("/dev/full", "w") as full:
        told = holdfast("run --once --hypervisor memory --desired tree", stderr=full)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.usefixtures("settled")
def test_closed_outputs_are_nobody_to_tell(holdfast: Call, tmp_path: Path) -> None:
    """Sabotage: leave them closed. The next file that is opened is then taken for standard output."""
    shell = f"exec {sys.executable} -m agent status <&- >&- 2>&-"
    environment = {"PYTHONPATH": str(ROOT), "HOLDFAST_STATE": str(tmp_path / "state")}
    assert subprocess.run(["sh", "-c", shell], env=environment, check=False).returncode == 0


def test_a_character_that_an_old_terminal_lacks_is_escaped(holdfast: Call, tree: Path) -> None:
    (tree / "more.yaml").write_text("api: holdfast/v1\nkind: vm\nname: db\nlabels: {ł: ł}\nł: 1\n")
    told = holdfast("validate tree", env={"PYTHONIOENCODING": "latin-1"})
    assert told.returncode == 1
    assert "\\u0142" in told.stdout


# A damaged ledger


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("words", ["status", "explain web", "events", "plan"])
def test_a_damaged_ledger_is_no_bug(holdfast: Call, tmp_path: Path, words: str) -> None:
    with (tmp_path / "state" / "state.db").open("r+b") as file:
        pages = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xff" * (pages - 4096))
    told = holdfast(words)
    assert (told.returncode, told.stdout) == (1, "")
    assert "the state database" in told.stderr
    assert "bug" not in told.stderr


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("words", ["run --once --hypervisor memory --desired tree", "down --yes"])
def test_a_damaged_ledger_is_set_aside_by_who_holds_the_state(
    holdfast: Call, tmp_path: Path, words: str
) -> None:
    database = tmp_path / "state" / "state.db"
    damaged = database.read_bytes()[:4096] + b"\xff" * 8192
    database.write_bytes(damaged)
    told = holdfast(words)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "state" / "state.db.damaged-1").read_bytes() == damaged
    [said] = [line for line in holdfast("events").stdout.splitlines() if "SetAside" in line]
    assert "is kept as state.db.damaged-1, and a new one is filled from what is there" in said


# Somebody else's state directory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("name", ["run", "plan", "status", "explain", "events", "down"])
def test_a_state_directory_of_somebody_else_is_told_with_its_owner(
    open_path: Path, name: str
) -> None:
    """Sabotage: let the library look whether the path can be read. It calls it an error of usage, and `plan` a bug."""
    state = open_path / "state"
    state.mkdir(0o700)
    command = program.get_command(click.Context(program), name)
    assert command is not None
    words = ["web"] if name == "explain" else []
    for path, said in (
        (
            state,
            "it belongs to root, and nobody else may enter it (do this as root, or say --state DIR)",
        ),
        (state / "deeper", "this user may not go there (say --state DIR)"),
    ):
        with without_privileges(), pytest.raises(StateUnusable) as told:
            command.main([*words, "--state", str(path)], standalone_mode=False)
        assert str(told.value) == f"entering the state directory {path}: {said}"


# Machines in memory


def test_where_nothing_runs_nothing_is_said_to_run_on(tmp_path: Path) -> None:
    """Sabotage: say so of every state without an agent."""
    state = StatePaths(tmp_path / "state")
    state.root.mkdir(mode=0o700)
    Ledger(state.database).close()
    assert "agent: none is running\n" in caller(tmp_path)("status").stdout


@pytest.mark.usefixtures("settled")
def test_machines_in_memory_are_said_to_be_gone_with_their_agent(holdfast: Call) -> None:
    assert "its VMs existed in its memory and ended with it" in holdfast("status").stdout
    told = holdfast("ssh web")
    assert (told.returncode, told.stderr) == (
        1,
        "holdfast: web exists in the memory of its agent alone: there is no guest to go into"
        " (run the agent without `--hypervisor memory`)\n",
    )


# Help


def test_every_variable_is_in_the_help_of_its_option() -> None:
    context = click.Context(program)
    variables = set()
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        said = command.get_help(click.Context(command, terminal_width=200))
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                variables.add(parameter.envvar)
                assert f"env var: {parameter.envvar}" in said, (name, parameter.name)
    assert {"HOLDFAST_STATE", "HOLDFAST_DESIRED", "HOLDFAST_INTERVAL"} <= variables


# Exit statuses


def test_a_broken_document_makes_a_plan_an_error_and_leaves_it_whole(
    holdfast: Call, tree: Path
) -> None:
    """Sabotage: look at the steps alone. What CI is told of a tree with a broken document is then *nothing to do*."""
    assert holdfast("plan --desired tree").returncode == 2
    (tree / "db.yaml").write_text(BROKEN)
    text, told = holdfast("plan --desired tree"), holdfast("plan --desired tree -o json")
    assert (text.returncode, told.returncode) == (1, 1)
    assert "create web" in text.stdout
    assert "memry" in text.stdout
    plan = json.loads(told.stdout)
    assert {one["name"]: one["action"] for one in plan["steps"]} == {"db": "hold", "web": "create"}
    assert [one["name"] for one in plan["problems"]] == ["db"]


def test_a_name_that_waits_for_what_it_cannot_have_is_no_plan_of_nothing(
    holdfast: Call, tree: Path
) -> None:
    """Sabotage: look at the steps that act alone. A document that this host cannot do passes for one that is done."""
    (tree / "all.yaml").write_text(DOCUMENTS + "memory: 4096GiB\n")
    told = holdfast("plan --desired tree")
    assert told.returncode == 2
    assert "wait web: memory 4TiB is more than this host has" in told.stdout
    assert told.stdout.endswith(": 1 waiting\n")


def test_one_mistake_is_one_line(holdfast: Call, tree: Path, tmp_path: Path) -> None:
    """Sabotage: print every problem beside the names that it holds."""
    source = "source: gopher://x/tiny.qcow2"
    (tree / "all.yaml").write_text(DOCUMENTS.replace("source: tiny.qcow2", source))
    (tree / "db.yaml").write_text(BROKEN)
    told = holdfast("plan --desired tree")
    assert told.returncode == 1
    assert told.stdout.splitlines()[:-1] == [
        "! hold db: db.yaml:4:1: unknown key `memry` (did you mean `memory`?)",
        "! hold web: all.yaml:8:1: see all.yaml:6:18",
        "! all.yaml:6:18: image `tiny` has a source that has the scheme `gopher`, which is not supported"
        " (write an https, http or file URL, or a path; `./` before a path with a colon)",
    ]
    assert holdfast("run --once --hypervisor memory --desired tree").returncode == 1
    lines = holdfast("status").stdout.splitlines()
    assert [line for line in lines if "web" in line] == [
        "held: web: all.yaml:8:1: see all.yaml:6:18"
    ]
    assert sum("gopher" in line for line in lines) == 1
    tree.rename(tree.with_name("gone"))
    told = holdfast("plan")
    why = f"{tree}: the directory cannot be read: No such file or directory"
    assert (told.returncode, told.stderr) == (1, f"holdfast: {why}\n")
    assert "directory" not in told.stdout
    assert holdfast("run --once --hypervisor memory --desired tree").returncode == 1
    [line] = [one for one in holdfast("status").stdout.splitlines() if "directory" in one]
    assert line == f"error: {why}"


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no source of documents was given"),
        ("--desired none", "none: No such file or directory"),
        ("--desired tree/all.yaml", "all.yaml: Not a directory"),
        ("--state= --desired tree", "'--state': an empty path names nothing"),
        ("--desired=", "'--desired': an empty path names nothing"),
        ("--desired tree --images=", "'--images': an empty path names nothing"),
        ("--desired tree --image-root=", "'--image-root': an empty path names nothing"),
        ("--desired tree --qemu=", "'--qemu': an empty path names nothing"),
        ("--config=", "'--config': an empty path names nothing"),
        ("--config none", "reading the configuration none: No such file or directory"),
        ("--desired tree --accel fast", "'fast' is not one of"),
    ],
)
def test_what_a_command_is_told_wrongly_is_an_error_of_usage(
    holdfast: Call, tmp_path: Path, command: str, words: str, said: str
) -> None:
    told = holdfast(f"{command} {words}")
    assert (told.returncode, told.stdout) == (64, "")
    assert said in told.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("desired: [1", "this is not YAML"),
        ("desired: [tree, other]", "`desired` must be a text or a number"),
        ("desired: {a: 1}", "`desired` must be a text or a number"),
        ("desired: true", "`desired` must be a text or a number"),
        ("image_root: [tree, [tree]]", "`image_root` must be a text or a number"),
        ("desird: tree", "has the unknown key `desird`"),
        ('desired: ""', "an empty path names nothing"),
        ("accel: fast", "'fast' is not one of"),
    ],
)
def test_a_configuration_that_is_none_is_an_error_of_usage(
    holdfast: Call, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    told = holdfast("plan --config config.yaml")
    assert (told.returncode, told.stdout) == (64, "")
    assert said in told.stderr


@pytest.mark.parametrize("roots", ["disks", "[disks]", "[tree, disks]"])
def test_a_configuration_says_what_the_command_line_says(
    holdfast: Call, tmp_path: Path, tree: Path, roots: str
) -> None:
    (tmp_path / "disks").mkdir()
    (tree / "tiny.qcow2").rename(tmp_path / "disks" / "tiny.qcow2")
    (tree / "all.yaml").write_text(DOCUMENTS.replace("tiny.qcow2", "../disks/tiny.qcow2"))
    assert holdfast("plan --desired tree").returncode == 1
    (tmp_path / "config.yaml").write_text(f"desired: tree\nimage_root: {roots}\naccel: tcg\n")
    assert holdfast("plan --config config.yaml").returncode == 2


def test_a_tree_that_is_gone_since_an_agent_ran_is_no_error_of_usage(
    holdfast: Call, tmp_path: Path, tree: Path
) -> None:
    run_once(tmp_path)
    tree.rename(tree.with_name("gone"))
    told = holdfast("plan")
    assert told.returncode == 1
    assert "restart web" in told.stdout


# Commands that one may copy


@pytest.mark.usefixtures("settled")
def test_a_command_that_is_told_names_the_state_that_was_given(
    holdfast: Call, tmp_path: Path
) -> None:
    """Sabotage: print hints as they are written. Who copies one is told of another state."""
    (tmp_path / "a b").symlink_to("state")
    missing = "holdfast: there is no `db` here (`holdfast status{} lists every name)\n"
    environment = holdfast("status db").stderr
    assert environment == missing.format("`")
    assert holdfast("status --state state db").stderr == missing.format(" --state state`")
    (tmp_path / "config.yaml").write_text("state: a b\n")
    told = holdfast("status --config config.yaml db", env={"HOLDFAST_STATE": ""})
    assert told.stderr == missing.format(" --state 'a b'`")
    nowhere = holdfast("status --state /nowhere/state").stderr
    assert (
        "(say --state DIR, or start an agent with `holdfast run --state /nowhere/state`)" in nowhere
    )


# Leaving


@pytest.fixture
def slow_qemu() -> Iterator[Path]:
    """A QEMU that never says its version, where every user may run it."""
    with tempfile.TemporaryDirectory(prefix="hf-") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory) / "qemu"
        program.write_text("#!/bin/sh\nexec sleep 60\n")
        program.chmod(0o755)
        yield program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_still_measures_leaves_when_it_is_told(
    tmp_path: Path, tree: Path, slow_qemu: Path, number: signal.Signals
) -> None:
    """Sabotage: listen for signals only once the accelerator is known. The signal then cuts the agent off."""
    words = ["run", "--state", tmp_path / "state", "--desired", tree, "--qemu", slow_qemu]
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE
    ) as agent:
        try:
            [child] = until(lambda: asleep(children(agent.pid)))
            agent.send_signal(number)
            _, said = agent.communicate(timeout=30)
        finally:
            agent.kill()
    assert agent.returncode == 0
    # On a host that keeps VMs, another agent has a fence up, and this one says so.
    assert {json.loads(line)["event"] for line in said.splitlines()} <= {"LoopbackFenced"}
    until(lambda: not asleep([child]))


def test_an_agent_says_when_it_starts_and_when_it_leaves(holdfast: Call, tmp_path: Path) -> None:
    words = ["run", "--state", tmp_path / "state", "--desired", "tree", "--hypervisor", "memory"]
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *map(str, words)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        try:
            until(lambda: " yes " in holdfast("status").stdout)
            agent.terminate()
            _, said = agent.communicate(timeout=30)
        finally:
            agent.kill()
    lines = [json.loads(line) for line in said.splitlines()]
    told = [(one["event"], one["pid"], one["message"]) for one in lines if "pid" in one]
    assert told == [
        ("Started", agent.pid, f"keeps {tmp_path}/state as {tmp_path}/tree says"),
        ("Leaving", agent.pid, "told to; what is under way is finished first"),
        ("Left", agent.pid, "its VMs existed in its memory and ended with it"),
    ]
    assert (lines[0]["event"], lines[0]["hypervisor"]) == ("Started", "memory")
    assert lines[-1]["event"] == "Left"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def asleep(pids: list[int]) -> list[int]:
    """Those that became `sleep`."""
    found = []
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"sleep\0"):
            found.append(pid)
    return found


def until(condition: Callable[[], object], seconds: float = 30.0) -> list[int]:
    waiting, end = threading.Event(), time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end
        waiting.wait(0.02)
    return answer if isinstance(answer, list) else []
