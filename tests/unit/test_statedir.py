"""The state directory: private, held by one agent at a time, and the same one from start to start."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent import durable
from agent.errors import StateInUse, StateUnusable
from agent.paths import StatePaths
from agent.statedir import StateDirectory, holder

HOLD = """
import sys
from pathlib import Path
from agent.statedir import StateDirectory
held = StateDirectory(Path(sys.argv[1]))
print(held.state_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@contextmanager
def another_agent(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the directory until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        assert agent.stdout is not None
        assert agent.stdout.readline()
        try:
            yield agent
        finally:
            agent.kill()


def made(root: Path) -> str:
    with closing(StateDirectory(root)) as held:
        return held.state_id


def test_it_is_made_private_with_what_is_above_it(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "state"
    before = os.umask(0)
    try:
        made(root)
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.parent.stat().st_mode) == 0o755
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert modes == {
        "agent.lock": 0o600, "state.id": 0o600, "images": 0o700, "instances": 0o700,
    }  # fmt: skip


def test_its_identity_is_made_once_and_kept(root: Path) -> None:
    first = made(root)
    assert str(uuid.UUID(first)) == first
    assert made(root) == first
    assert made(root.with_name("other")) != first


@pytest.mark.parametrize("content", [b"", b"not a uuid\n", b"\xff\xfe\n", b"\0" * 36])
def test_an_identity_that_is_none_is_refused_and_left_as_it_is(root: Path, content: bytes) -> None:
    """A new one would make strangers of every machine of this directory."""
    made(root)
    (root / "state.id").write_bytes(content)
    with pytest.raises(StateUnusable, match=r"state.id holds no UUID \(restore it"):
        StateDirectory(root)
    assert (root / "state.id").read_bytes() == content


def test_a_refusal_lets_go_of_the_directory(root: Path) -> None:
    identity = made(root)
    (root / "state.id").write_text("not a uuid")
    with pytest.raises(StateUnusable):
        StateDirectory(root)
    (root / "state.id").write_text(identity)
    with another_agent(root):
        pass


def test_a_second_agent_is_refused_and_told_who_holds_it(root: Path) -> None:
    with another_agent(root) as agent:
        with pytest.raises(StateInUse, match=f"is held by another agent, pid {agent.pid} ") as told:
            StateDirectory(root)
        assert told.value.hint.startswith("stop that one first")
        assert holder(StatePaths(root)) == agent.pid


def test_asking_who_holds_it_takes_nothing_from_the_holder(root: Path) -> None:
    with another_agent(root) as agent:
        for _ in range(3):
            assert holder(StatePaths(root)) == agent.pid
        with pytest.raises(StateInUse):
            StateDirectory(root)


def test_a_killed_agent_holds_it_no_more(root: Path) -> None:
    with another_agent(root) as agent:
        agent.kill()
        agent.wait()
        assert holder(StatePaths(root)) is None
        assert made(root)


def test_nobody_holds_what_is_not_there(root: Path) -> None:
    assert holder(StatePaths(root)) is None
    made(root)
    assert holder(StatePaths(root)) is None


def test_children_of_the_agent_do_not_hold_it(root: Path) -> None:
    """Sabotage: lock with flock(2), which every process that inherits the descriptor keeps."""
    held = StateDirectory(root)
    with subprocess.Popen(["sleep", "60"], pass_fds=[held._lock]) as child:
        held.close()
        try:
            with another_agent(root) as agent:
                assert holder(StatePaths(root)) == agent.pid
        finally:
            child.kill()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o702])
def test_one_that_is_open_to_others_is_refused(root: Path, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(StateUnusable, match=rf"is open to others \(mode {mode:04o}\)") as told:
        StateDirectory(root)
    assert told.value.hint == f"chmod 0700 {root}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_one_of_another_user_is_refused(root: Path) -> None:
    root.mkdir(0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(StateUnusable, match="belongs to uid 12345, not to 0"):
        StateDirectory(root)


def test_one_that_anybody_could_exchange_is_refused(tmp_path: Path) -> None:
    """Sabotage: look at the directory alone. Whoever may write above it can put another in its place."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(StateUnusable, match=f"anybody may write to {above} "):
        StateDirectory(above / "below" / "state")
    link = tmp_path / "link"
    link.symlink_to(above)
    with pytest.raises(StateUnusable, match=f"anybody may write to {above} "):
        StateDirectory(link / "state")
    above.chmod(0o1777)
    assert made(above / "state")


@pytest.mark.parametrize("name", ["agent.lock", "state.id"])
def test_a_planted_link_is_not_followed(root: Path, tmp_path: Path, name: str) -> None:
    root.mkdir(0o700)
    target = tmp_path / "target"
    (root / name).symlink_to(target)
    with pytest.raises(StateUnusable, match=name):
        StateDirectory(root)
    assert not target.exists()


def test_a_file_in_its_place_or_above_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(StateUnusable, match="making the state directory"):
            StateDirectory(root)


def test_what_a_crash_left_half_written_is_removed_and_nothing_else(root: Path) -> None:
    made(root)
    for directory in (
        "images/sources",
        "keys/hosts",
        "instances/1",
        "runs/1/artifacts/root",
        "runs/.2.part/inputs",
    ):
        (root / directory).mkdir(parents=True)
    left = [
        ".state.id.0123abcd", "images/.0123456789.part", "images/.x.json.89abcdef",
        "images/sources/.x.json.00000000", "keys/.id_ed25519.01234567", "keys/hosts/.web.01234567",
        "instances/1/.seed.iso.01234567", "runs/1/.run.json.01234567",
        "runs/.2.part/run.json", "runs/.2.part/inputs/.x.01234567",
    ]  # fmt: skip
    kept = [
        "images/x.part", "images/.part", "keys/.gitignore", ".nfs000000000012345678",
        "instances/1/disk.qcow2", "keys/hosts/web", ".x.0123abcde",
        "runs/1/run.json", "runs/1/artifacts/root/.x.part",
    ]  # fmt: skip
    for name in (*left, *kept):
        (root / name).write_text("x")
    (root / "images" / ".directory.part").mkdir()
    made(root)
    assert [name for name in left if (root / name).exists()] == []
    assert [name for name in kept if not (root / name).exists()] == []
    assert [run.name for run in (root / "runs").iterdir()] == ["1"]


def test_what_is_removed_is_what_a_killed_writer_leaves(tmp_path: Path) -> None:
    cut_off = "\n".join([
        "import os, signal, sys",
        "from pathlib import Path",
        "from agent import durable",
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)",
        "durable.write(Path(sys.argv[1]), b'content', replace=True)",
    ])  # fmt: skip
    subprocess.run([sys.executable, "-c", cut_off, tmp_path / "file.json"], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    durable.clear_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_asks_leaves_the_files_of_one_that_runs_alone(root: Path) -> None:
    """Sabotage: clear up before the lock is taken."""
    with another_agent(root):
        part = root / "images" / ".0123.part"
        part.write_text("on its way")
        with pytest.raises(StateInUse):
            StateDirectory(root)
        assert part.exists()


def test_who_comes_while_it_is_removed_holds_the_new_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: hold it without asking whether it still has its name. Two agents then hold the directory."""
    first = StateDirectory(root)
    for directory in (first.paths.instances, first.paths.images):
        directory.rmdir()
    first.paths.identity.unlink()
    locked = fcntl.flock
    tried = []

    def removed_before(directory: int, how: int) -> None:
        tried.append(directory)
        if len(tried) == 1:
            first.remove()
            first.close()
            assert not root.exists()
        locked(directory, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with closing(StateDirectory(root)):
        assert len(tried) == 2
        assert root.exists()
        monkeypatch.undo()
        told = subprocess.run([sys.executable, "-c", HOLD, root], capture_output=True, text=True)
        assert "is held by another agent" in told.stderr


def test_whatever_is_removed_from_it_it_is_held(root: Path) -> None:
    """Sabotage: hold a file in it."""
    with closing(StateDirectory(root)) as held:
        held.paths.lock.unlink()
        told = subprocess.run([sys.executable, "-c", HOLD, root], capture_output=True, text=True)
        assert "is held by another agent" in told.stderr
        assert not held.paths.lock.exists(), "it is not for the one that is refused to make"
        assert held.tell_again()
        assert not held.tell_again()
        asked = f"import agent.statedir as s, agent.paths as p; print(s.holder(p.StatePaths(p.Path({str(root)!r}))))"
        told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
        assert told.stdout == f"{os.getpid()}\n"
        held.paths.identity.unlink()
        for directory in (held.paths.instances, held.paths.images):
            directory.rmdir()
        held.remove()
    assert not root.exists(), "it is still known that an agent made it"
