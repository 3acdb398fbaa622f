"""A commit and the directory that it is checked out to are the same tree.

Sabotage that is caught: a link that is followed out of the tree, rules of an ignore file that count elsewhere, a file
that counts under two names.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Hashable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.source.directory import DirectoryTree
from agent.source.files import Directory
from agent.source.git.command import Git
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects
from agent.source.ignore import Verdicts
from agent.source.tree import SUFFIXES, Look, Tree
from agent.source.walk import Walk
from tests.gits import git
from tests.trees import LONG_AGO, NOW, scratch

NAMES = st.sampled_from(["a", "b", "c.yaml", "d.yml", ".e.yaml", "f.txt", ".holdfastignore", "g"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
RULES = st.lists(
    st.sampled_from(["a", "/a", "*.yaml", "!c.yaml", "b/", "a/**", "d.yml", "#"]), max_size=3
).map("\n".join)
TARGETS = st.one_of(
    PATHS,
    st.tuples(st.sampled_from(["..", "../..", ".", "./a", "../top/a"]), PATHS).map("/".join),
    st.sampled_from([".", "..", "../beside", "../beside/c.yaml", "/etc", "/etc/passwd", "nowhere"]),
)
FILES = st.dictionaries(
    PATHS, st.one_of(RULES.map(lambda text: ("file", text)), TARGETS.map(lambda to: ("link", to)))
)


def lay(root: Path, files: dict[str, tuple[str, str]]) -> None:
    """As many of the files as there can be beside each other."""
    for path, (kind, content) in files.items():
        target = root / path
        try:
            if os.path.realpath(target.parent) != str(target.parent):
                continue  # through a link, it would be another file, or a directory of which git knows nothing
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                target.symlink_to(content)
            else:
                with target.open("x") as file:
                    file.write(content)
        except (FileExistsError, NotADirectoryError, OSError):
            continue
        os.utime(target, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def committed(top: Path) -> Objects:
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "--allow-empty", "-m", "all")
    return Objects(Git(top / ".git"))


def told(look: Look, odd: frozenset[str] = frozenset()) -> tuple[object, ...]:
    return (
        [entry.path for entry in look.entries],
        # Where a link leads out of the repository, a directory can tell more than a commit, in other words.
        sorted((one.file, one.line) for one in look.problems if one.file not in odd),
        sorted((one.where.file, one.message) for one in look.advice),
    )


def unknowable(*looks: Look) -> frozenset[str]:
    """Links out of a repository, of which no commit can tell whether they lead to a directory, or to anything."""
    return frozenset(
        problem.file
        for look in looks
        for problem in look.problems
        if "leads outside the tree" in problem.message and not problem.file.endswith(SUFFIXES)
    )


def content(tree: Tree, path: str) -> object:
    try:
        return tree.read(path, NOW).data
    except BadInput:
        return None


@settings(max_examples=40)
@given(files=FILES, more=FILES)
@example(
    files={"a": ("link", "b")}, more={"b/a": ("file", ""), "a/.holdfastignore/a": ("file", "")}
)
def test_a_commit_and_its_checkout_hold_the_same_files(
    files: dict[str, tuple[str, str]], more: dict[str, tuple[str, str]]
) -> None:
    with scratch() as root:
        (root / "beside").mkdir()
        (root / "beside" / "c.yaml").write_text("beside")
        top = root / "top"
        top.mkdir()
        lay(top, files)
        objects = committed(root)
        commit = CommitTree(objects, "top")
        directory = DirectoryTree(top)
        try:
            for _ in range(2):
                commit.at(git(root, "rev-parse", "HEAD^{tree}"))
                if not any(path.is_symlink() or path.is_file() for path in top.rglob("*")):
                    return  # git knows no empty directory
                looks = commit.look(NOW), directory.look(NOW)
                assert told(looks[0], odd := unknowable(*looks)) == told(looks[1], odd)
                for entry in looks[0].entries:
                    assert content(commit, entry.path) == content(directory, entry.path)
                for path in files:
                    assert content(commit, path) == content(directory, path)
                lay(top, more)
                git(root, "add", "-A")
                git(root, "commit", "-q", "--allow-empty", "-m", "more")
        finally:
            objects.rest()


@pytest.mark.parametrize(
    ("first", "gone"),
    [
        # One file by two names, of which one is in a directory that stays as it is.
        ({"a/c.yaml": ("file", "c"), "y.yaml": ("link", "a/c.yaml"), "b.yaml": ("file", "b")}, "b.yaml"),
        # One of a directory that only links lead to, by two of them, of which the first goes.
        (
            {".d/c.yaml": ("file", "c"), "x.yaml": ("link", ".d/c.yaml"), "z": ("link", ".d")},
            "x.yaml",
        ),
    ],
)  # fmt: skip
def test_what_stays_in_a_directory_counts_as_often_as_before(
    tmp_path: Path, first: dict[str, tuple[str, str]], gone: str
) -> None:
    """Sabotage: forget which files of such a directory count already; remember one that a link has led to."""
    top = tmp_path / "top"
    lay(top, first)
    objects = committed(tmp_path)
    commit, directory = CommitTree(objects, "top"), DirectoryTree(top)
    try:
        for _ in range(2):
            commit.at(git(tmp_path, "rev-parse", "HEAD^{tree}"))
            assert told(commit.look(NOW)) == told(directory.look(NOW))
            (top / gone).unlink(missing_ok=True)
            git(tmp_path, "commit", "-q", "-a", "--allow-empty", "-m", "less")
    finally:
        objects.rest()


class Sealed(Directory):
    """A directory that is taken to be as it was."""

    def settled(self, key: str) -> Hashable | None:
        return "sealed"


def test_what_is_said_of_a_directory_is_said_again_while_it_stays(tmp_path: Path) -> None:
    """Sabotage: pass over a directory of which there was something to say."""
    os.mkfifo(tmp_path / "pipe.yaml")
    files, verdicts = Sealed(str(tmp_path)), Verdicts()
    first = Walk(files, verdicts, Look(), NOW).look()
    again = Walk(files, verdicts, first, NOW).look()
    assert [one.where.file for one in again.advice] == ["pipe.yaml"]


def test_a_name_that_is_no_utf8_is_the_same_in_both(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe.yaml")
    lay(tmp_path, {odd: ("file", "x"), "a/b.yaml": ("file", "y")})
    objects = committed(tmp_path)
    commit = CommitTree(objects, "")
    commit.at(git(tmp_path, "rev-parse", "HEAD^{tree}"))
    assert told(commit.look(NOW)) == told(DirectoryTree(tmp_path).look(NOW))
    assert content(commit, odd) == b"x"
    objects.rest()


@pytest.mark.parametrize("kind", ["blob", "tree"])
def test_a_missing_object_is_said(tmp_path: Path, kind: str) -> None:
    lay(tmp_path, {"a/b.yaml": ("file", "y")})
    objects = committed(tmp_path)
    oid = git(tmp_path, "rev-parse", "HEAD:a" if kind == "tree" else "HEAD:a/b.yaml")
    (tmp_path / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    commit = CommitTree(objects, "")
    commit.at(git(tmp_path, "rev-parse", "HEAD^{tree}"))
    with pytest.raises(Exception, match=f"reading {kind} {oid}: missing"):
        commit.read("a/b.yaml", NOW)
    objects.rest()


def test_git_refuses_what_a_checkout_could_not_hold(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    blob = git(tmp_path, "hash-object", "-w", "--stdin", stdin=b"x")
    evil = subprocess.run(
        ["git", "-C", tmp_path, "mktree", "--missing"],
        input=f"100644 blob {blob}\t..\n".encode(),
        capture_output=True,
    )
    tree = evil.stdout.decode().strip()
    commit = CommitTree(objects := Objects(Git(tmp_path / ".git")), "")
    commit.at(tree)
    assert told(commit.look(NOW)) == ([], [], [])
    objects.rest()
