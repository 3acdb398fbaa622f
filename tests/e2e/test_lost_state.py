"""State directories that lose what they are known by, under a live agent and between two, and what it costs: no VM."""

from __future__ import annotations

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]


def test_a_lock_and_a_socket_that_are_removed_under_an_agent_let_no_other_in_and_come_back(
    still: Site,
) -> None:
    """Sabotage: hold the lock alone; listen once."""
    still.vm("web")
    with still.agent() as agent:
        web = still.ready("web")
        still.paths.lock.unlink()
        still.paths.api_socket.unlink()
        second = still.call("run", *still.source(), "--once")
        assert second.returncode == 75
        assert b"is held by another agent, a process that cannot be seen from here" in second.stderr
        still.until(lambda: still.status()["agent"]["pid"] == agent.pid, "it is seen again", 30)
        still.until(still.paths.api_socket.exists, "it can be asked again", 30)
        assert still.call("reconcile").returncode == 0
        assert list(still.processes()) == [web["pid"]]
    assert still.item("web")["pid"] == web["pid"]


def test_a_state_that_has_lost_all_its_files_knows_what_runs(still: Site) -> None:
    """The database, its id and its lock. Sabotage: make a new id, by which nothing of it is ours."""
    still.vm("web")
    with still.agent():
        before = still.ready("web")
        identity = still.paths.identity.read_text()
    for file in still.state.iterdir():
        if file.is_file():
            file.unlink()
    with still.agent():
        after = still.ready("web")
        kept = ("pid", "uid", "generation")
        assert [after[key] for key in kept] == [before[key] for key in kept]
        assert still.paths.identity.read_text() == identity
        assert still.processes() == {before["pid"]: before["uid"]}


def test_a_directory_in_the_place_of_the_database_is_one_sentence(still: Site) -> None:
    """Sabotage: take it for a bug."""
    still.state.mkdir(0o700)
    still.paths.database.mkdir()
    for words in (["run", *still.source(), "--once"], ["status"], ["plan", *still.source()[:-2]]):
        told = still.call(*words)
        assert told.returncode == 1, (words, told)
        [line] = told.stderr.decode().splitlines()
        assert line.startswith("holdfast: ")
        assert "state.db" in line
    still.paths.database.rmdir()
