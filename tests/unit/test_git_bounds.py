"""What a repository and its server may take of the host: room on its disk, memory, and how long they may speak."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.source.git import process
from agent.source.git.clone import Clone
from agent.source.git.origin import origin
from tests.gits import git
from tests.mounting import Lowest, mount, mounted
from tests.trees import vm
from tests.unit.test_git_source import Cut, Place, look_until, names

MIB = 1 << 20


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def cut(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    made = Cut(tmp_path, place)
    monkeypatch.setenv("GIT_SSH", str(made.script))
    return made


def test_a_fetch_leaves_room_for_what_the_agent_records(place: Place, tmp_path: Path) -> None:
    """Sabotage: let git write until the disk is full. Nothing can be recorded meanwhile, and the agent ends."""
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "40m"):
        place.paths.git.symlink_to(small)
        assert names(place.fetched()) == ["db", "web"]
        place.repository.commit({"big": os.urandom(35 * MIB), "web.yaml": None})
        with Lowest(small) as lowest:
            desired = place.fetched()
        assert names(desired) == ["db", "web"]
        assert desired.source.error is not None
        assert "no room for it" in desired.source.error
        assert desired.source.error.endswith("of which one file of git gets 11 (make room there)")
        assert lowest.free > 10 * MIB
        assert not list(small.rglob("tmp_*"))
        assert names(place.look()) == ["db", "web"], "what was good is still there"


def test_what_has_found_no_room_is_not_fetched_again_before_there_is_more(
    place: Place, cut: Cut, tmp_path: Path
) -> None:
    """Sabotage: try again with every look. A server sends the same commit twice a minute, for nothing."""
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "40m"):
        place.paths.git.symlink_to(small)
        clone = cut.agent()
        clone.fetch()
        assert clone.standing.commit == place.first
        tip = place.repository.commit({"big": os.urandom(15 * MIB)})
        clone.fetch()
        cut.at(0)
        clone.fetch()
        assert "no room for it" in (clone.standing.error or "")
        assert cut.calls == 1, "it is asked what the branch names, and nothing else"
        mount(small, "remount,size=80m")
        clone.fetch()
        assert (clone.standing.error, clone.standing.commit) == (None, tip)


def test_git_does_not_begin_to_fill_what_is_left_of_a_disk(place: Place, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "8m"):
        place.paths.git.symlink_to(small)
        assert names(place.fetched()) == ["db", "web"]
        (small / "other").write_bytes(bytes(6 * MIB))
        place.repository.commit({"web.yaml": None})
        desired = place.fetched()
        assert names(desired) == ["db", "web"]
        assert "of which one file of git gets 0" in (desired.source.error or "")
        (small / "other").unlink()
        assert names(place.fetched()) == ["db"]


BRANCHES = """\
import sys
line = b"1" * 40 + b" refs/heads/x" + b"x" * 900
while True:
    sys.stdout.buffer.write(b"".join(b"%04x%s%07d" % (len(line) + 11, line, at) for at in range(9999)))
"""


def test_a_server_that_names_branches_without_end_costs_little_memory(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let git take what it likes. It takes what there is, for as long as it gets."""
    program, script = tmp_path / "branches.py", tmp_path / "ssh"
    program.write_text(BRANCHES)
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {program} 2>/dev/null\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    clone.fetch()
    assert "Out of memory" in (clone.standing.error or "")


def ran(program: str, stdin: bytes = b"", seconds: float = 30.0) -> process.Ended:
    return process.run([sys.executable, "-c", program], dict(os.environ), stdin, seconds)


def test_of_what_is_said_without_end_the_beginning_and_the_end_are_kept() -> None:
    said = ran(
        "import sys\n"
        "for at in range(3000): print(f'line {at} ' + 'x' * 1000, file=sys.stderr)\n"
        "print('fatal: the end', file=sys.stderr)\n"
    ).said
    assert len(said) < 1 << 17
    lines = said.splitlines()
    assert lines[0].startswith(b"line 0 ")
    assert lines[-1] == b"fatal: the end"


def test_who_prints_without_end_is_ended() -> None:
    with pytest.raises(process.TooMuch):
        ran("while True: print('x' * 100_000)")


def test_who_does_not_end_is_ended_with_what_he_has_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    shell = ["sh", "-c", f"(echo $(exec sh -c 'echo $PPID') >{pid}; exec sleep 1000) & wait"]
    with pytest.raises(process.TooLong):
        process.run(shell, dict(os.environ), b"", 2.0)
    stat = Path("/proc", pid.read_text().strip(), "stat")
    look_until(lambda: not stat.exists() or ") Z " in stat.read_text())


def test_what_works_for_a_git_is_ended_with_it_at_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: begin `timeout` under the lock. It makes a group of its own, and git works on, without the lock, while
    what it left is cleared away."""
    told, script = tmp_path / "told", tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\ncut -d' ' -f5,6 /proc/self/stat >{told}\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    clone.fetch()
    group, session = told.read_text().split()
    assert group == session


def test_what_is_read_and_printed_at_once_comes_over_whole() -> None:
    data = os.urandom(4 * MIB)
    copies = "import sys, shutil\nshutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    assert ran(copies, data).printed == data
    assert ran("raise SystemExit(3)", data).status == 3


def pushed(place: Place, tree: str) -> str:
    """A commit of that tree after what the branch names; its id."""
    work = place.repository.work
    commit = git(work, "commit-tree", tree, "-p", "origin/main", "-m", "large")
    git(work, "push", "-q", "origin", f"{commit}:main")
    return commit


def nested(place: Place) -> str:
    """A tree of ten million directories, made of eight objects."""
    work = place.repository.work
    blob = git(work, "hash-object", "-w", "--stdin", stdin=vm("x").encode())
    tree = git(work, "mktree", stdin=f"100644 blob {blob}\tx.yaml\n".encode())
    for _ in range(7):
        lines = "".join(f"040000 tree {tree}\tagain-{at}\n" for at in range(10))
        tree = git(work, "mktree", stdin=lines.encode())
    return tree


def repeated(place: Place) -> str:
    """A tree of a thousand documents that are one object of 100 KiB."""
    work = place.repository.work
    text = vm("x") + "# " + "x" * (100 << 10) + "\n"
    blob = git(work, "hash-object", "-w", "--stdin", stdin=text.encode())
    lines = "".join(f"100644 blob {blob}\t{at}.yaml\n" for at in range(1000))
    return git(work, "mktree", stdin=lines.encode())


@pytest.mark.parametrize(
    ("large", "why"),
    [
        (nested, "it holds more than 100,000 files and directories"),
        (repeated, "its documents are larger than 64 MiB together"),
    ],
)
def test_a_tree_without_end_is_refused_and_named(
    place: Place, large: Callable[[Place], str], why: str
) -> None:
    """Sabotage: look through all of it. It ends when the memory does."""
    place.fetched()
    tip = pushed(place, large(place))
    for _ in range(2):
        desired = place.fetched()
        assert desired.source.commit == tip
        assert desired.source.error == (
            f"the commit is too large to be looked through: {why} (say --path for fewer, or .holdfastignore)"
        )
        assert desired.unproven is not None, "what runs is left as it is"
    pushed(place, f"{place.first}^{{tree}}")
    desired = place.fetched()
    assert (names(desired), desired.source.error) == (["db", "web"], None)


def test_what_is_passed_over_makes_no_tree_too_large(place: Place) -> None:
    place.fetched()
    work = place.repository.work
    blob = git(work, "hash-object", "-w", "--stdin", stdin=b"again\n")
    document = git(work, "rev-parse", f"{place.first}:web.yaml")
    images = git(work, "rev-parse", f"{place.first}:images.yaml")
    lines = (
        f"100644 blob {blob}\t.holdfastignore\n100644 blob {document}\tweb.yaml\n"
        f"100644 blob {images}\timages.yaml\n040000 tree {nested(place)}\tagain\n"
    )
    pushed(place, git(work, "mktree", stdin=lines.encode()))
    desired = place.fetched()
    assert (names(desired), desired.source.error, desired.unproven) == (["web"], None, None)
