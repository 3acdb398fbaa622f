"""What `down` takes for something to destroy, how long it waits for an agent, and when it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.stopping import patience
from agent.config import Settings
from agent.paths import StatePaths
from agent.sockets import own_directory
from agent.statedir import StateDirectory
from state.ids import Name
from state.ledger import Ledger
from state.observed import NameRecord
from state.records import SETTINGS_KEY
from tests.builders import running, vm
from tests.unit.test_statedir import another_agent

ROOT = Path(__file__).parents[2]


def down(*words: str | Path, within: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*within, sys.executable, "-m", "agent", "down", "--yes", *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    root = tmp_path / "state"
    StateDirectory(root).close()
    paths = StatePaths(root)
    with closing(Ledger(paths.database)) as ledger, ledger.transaction() as change:
        change.put_name(NameRecord(Name("old"), 3, None))
        change.put_name(NameRecord(Name("web"), 1, 22000))
    return paths


def test_a_name_that_is_only_remembered_is_nothing_to_destroy(state: StatePaths) -> None:
    """Sabotage: destroy every name of the ledger. One whose VM went last year is then destroyed again."""
    told = down("--state", state.root)
    assert (told.returncode, told.stdout, told.stderr) == (0, "destroyed: web\n", "")
    with closing(Ledger(state.database)) as ledger:
        assert ledger.names()[Name("old")] == NameRecord(Name("old"), 3, None)
        assert ledger.name(Name("web")).ssh_port is None
    assert down("--state", state.root).stdout == "destroyed: there was no VM\n"


def test_all_that_there_is_goes_with_the_volumes(state: StatePaths) -> None:
    assert down("--volumes", "--state", state.root).returncode == 0
    assert not state.root.exists()
    assert not state.sockets.exists()
    assert down("--state", state.root).stdout.startswith("nothing to destroy")


@pytest.mark.parametrize("file", [None, "notes"])
def test_a_directory_that_was_there_before_or_has_more_in_it_stays(
    state: StatePaths, file: str | None
) -> None:
    """Sabotage: remove whatever is empty. A mount point, or a directory of a package, is then gone."""
    if file is None:
        state.lock.write_text("")
    else:
        (state.root / file).touch()
    assert down("--volumes", "--state", state.root).returncode == 0
    assert [path.name for path in state.root.iterdir()] == ([] if file is None else [file])


def test_its_sockets_are_gone_where_they_lie_elsewhere(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / ("s" * 60))
    assert not paths.sockets.is_relative_to(paths.root)
    StateDirectory(paths.root).close()
    own_directory(paths.sockets)
    assert down("--state", paths.root).returncode == 0
    assert not paths.sockets.exists()


@pytest.mark.parametrize(
    ("answer", "stdout", "stderr"),
    [
        ("n\n", "nothing was destroyed\n", ""),
        (
            "",
            "\n",
            "holdfast: nothing was destroyed: nobody answered (say --yes where nobody can)\n",
        ),
    ],
)
def test_what_was_not_answered_with_yes_destroys_nothing(
    state: StatePaths, answer: str, stdout: str, stderr: str
) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "agent", "down", "--state", state.root],
        capture_output=True, text=True, cwd=ROOT, check=False, input=answer,
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stdout.endswith(f"? [y/N]: {stdout}")
    assert told.stderr == stderr
    with closing(Ledger(state.database)) as ledger:
        assert ledger.name(Name("web")).ssh_port == 22000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a namespace of pids")
def test_an_agent_in_another_container_is_told_of_and_left_alone(state: StatePaths) -> None:
    """The kernel says 0 for a holder that has no pid where it is asked (fcntl(2), F_GETLK across pid_namespaces(7))."""
    with another_agent(state.root) as agent:
        told = down("--state", state.root, within=("unshare", "--pid", "--fork", "--mount-proc"))
        if told.stderr.startswith("unshare"):
            pytest.skip(told.stderr)
        assert told.returncode == 75
        assert told.stderr == (
            f"holdfast: the agent of {state.root} cannot be stopped from here: its process cannot be seen"
            " (stop it where it runs, perhaps in another container, and try again)\n"
        )
        assert agent.poll() is None


def test_an_agent_may_be_ending_the_slowest_guest(state: StatePaths) -> None:
    assert patience(state) == 30.0
    with closing(Ledger(state.database)) as ledger, ledger.transaction() as change:
        change.put_instance(running(vm("web", stop_timeout=90.0)))
        change.put_instance(running(vm("db", stop_timeout=5.0)))
    assert patience(state) == 120.0
    assert patience(StatePaths(state.root / "none")) == 30.0


def test_an_agent_may_take_its_vms_down_one_after_the_other(state: StatePaths) -> None:
    """Sabotage: wait for the slowest guest alone, where the agent was told to take down all that depend on each other;
    or count what goes down beside it."""
    with closing(Ledger(state.database)) as ledger, ledger.transaction() as change:
        change.put_meta(SETTINGS_KEY, Settings(on_stop="shutdown").to_json())
        change.put_instance(running(vm("db", stop_timeout=90.0)))
        change.put_instance(running(vm("api", stop_timeout=20.0, depends_on=(Name("db"),))))
        change.put_instance(running(vm("web", stop_timeout=5.0, depends_on=(Name("api"),))))
        change.put_instance(running(vm("ci", stop_timeout=10.0)))
        change.put_instance(replace(running(vm("old")), spec="{}"))
    # What it was doing when it was told; ci and web, api, db; and the one of which nothing is known.
    assert patience(state) == 30.0 + 90.0 + (10.0 + 20.0 + 90.0) + 30.0
    assert patience(state, sparing=True) == 30.0 + 90.0


def test_a_vm_whose_spec_cannot_be_read_is_destroyed_like_any(state: StatePaths) -> None:
    """Sabotage: read its spec without minding that another version may have written it."""
    with closing(Ledger(state.database)) as ledger, ledger.transaction() as change:
        change.put_instance(replace(running(process=None), spec="{}"))
    told = down("--state", state.root)
    assert (told.returncode, told.stdout, told.stderr) == (0, "destroyed: web\n", "")
