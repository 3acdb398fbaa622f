"""Trees that no checkout would make, and links in them: what is read of a commit is what lies in its directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.errors import BadInput
from agent.source.git.command import Git
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects, Unsound
from agent.source.tree import Missing
from tests.gits import git

FILE, LINK, DIRECTORY = "100644", "120000", "40000"
Made = tuple[str, str]
"""The mode and the id of something in a tree."""


class Store:
    """A repository that takes whatever objects it is given."""

    def __init__(self, root: Path) -> None:
        git(root, "init", "-q", "--bare", str(root))
        self._root = root
        self.objects = Objects(Git(root))

    def file(self, content: str) -> Made:
        return FILE, self._put("blob", content.encode())

    def link(self, target: str) -> Made:
        return LINK, self._put("blob", target.encode())

    def directory(self, **members: Made) -> Made:
        """`members` by their names; `__` stands for a dot."""
        return self.odd_directory({name.replace("__", "."): one for name, one in members.items()})

    def odd_directory(self, members: dict[str, Made]) -> Made:
        raw = b"".join(
            f"{mode} {name}\0".encode() + bytes.fromhex(oid)
            for name, (mode, oid) in sorted(members.items())
        )
        return DIRECTORY, self._put("tree", raw, "--literally")

    def senseless(self) -> Made:
        return DIRECTORY, self._put("tree", b"100abc x\0" + bytes(20), "--literally")

    def tag(self) -> Made:
        """A tag of a file, said to be a file."""
        said = (
            f"object {self.file('x')[1]}\ntype blob\ntag x\ntagger C <c@example.org> 1 +0000\n\nx\n"
        )
        return FILE, self._put("tag", said.encode())

    def tree(self, top: Made, below: str = "") -> CommitTree:
        made = CommitTree(self.objects, below)
        made.at(top[1])
        return made

    def _put(self, kind: str, content: bytes, *words: str) -> str:
        return git(self._root, "hash-object", "-w", "-t", kind, *words, "--stdin", stdin=content)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.objects.rest()


def paths(tree: CommitTree) -> list[str]:
    return [entry.path for entry in tree.look(0.0).entries]


@pytest.mark.parametrize("mode", ["0", "1", "10000", "60000", "140000", "7" * 19, "1" + "0" * 40])
def test_a_mode_that_git_does_not_know_is_that_of_a_submodule(store: Store, mode: str) -> None:
    """Sabotage: take it for a file, which nobody has fetched; or ask the system, which knows of no such number."""
    _, oid = store.file("x")
    members = {"ok.yaml": store.file("ok"), "x.yaml": (mode, oid), "sub": (mode, "1" * 40)}
    look = store.tree(store.odd_directory(members)).look(0.0)
    assert [entry.path for entry in look.entries] == ["ok.yaml"]
    assert {problem.file.strip("/") for problem in look.problems} == {"sub", "x.yaml"}


def test_permissions_make_no_mode_another(store: Store) -> None:
    _, oid = store.file("x")
    modes = ("100600", "100664", "107777", f"{1 << 40 | 0o100644:o}")
    found = paths(store.tree(store.odd_directory({f"{one}.yaml": (one, oid) for one in modes})))
    assert found == sorted(f"{one}.yaml" for one in modes)


def test_a_directory_without_sense_is_a_repository_that_cannot_be_read(store: Store) -> None:
    """Sabotage: let it be a bug. No git lets one pass that is fetched; a repository on this host may hold one."""
    with pytest.raises(Unsound, match="it is no list of a directory"):
        store.tree(store.senseless()).look(0.0)


def test_a_tag_that_stands_for_a_file_is_one_file_that_cannot_be_read(store: Store) -> None:
    """Sabotage: take it for a broken repository, which is fetched anew again and again and holds every name."""
    tree = store.tree(store.directory(ok__yaml=store.file("ok"), x__yaml=store.tag()))
    assert paths(tree) == ["ok.yaml", "x.yaml"]
    with pytest.raises(BadInput, match="it is a tag"):
        tree.read("x.yaml", 0.0)
    assert tree.read("ok.yaml", 0.0).data == b"ok"


@pytest.mark.parametrize("name", ["", ".", "..", "sub/x.yaml", "../x.yaml", "/x.yaml"])
def test_a_name_that_no_checkout_would_make_is_none(store: Store, name: str) -> None:
    """Sabotage: take it as it stands. A document then lies where no one could put it."""
    inner = store.directory(x__yaml=store.file("x"))
    members = {"ok.yaml": store.file("ok"), name: inner if "x" not in name else store.file("x")}
    tree = store.tree(store.odd_directory(members))
    look = tree.look(0.0)
    assert (paths(tree), look.problems) == (["ok.yaml"], ())
    with pytest.raises((Missing, BadInput)):
        tree.read(f"{name}/x.yaml" if "x" not in name else name, 0.0)


OUTSIDE = "it leads outside the tree"
LINKS = {
    "../edge2/x.yaml": OUTSIDE,
    "../x.yaml": OUTSIDE,
    "../../x.yaml": OUTSIDE,
    "../../edge/ok.yaml": OUTSIDE,
    "/ok.yaml": OUTSIDE,
    "/etc/hostname": OUTSIDE,
    ".git/x.yaml": "it leads into .git, which is no part of the tree",
    "link.yaml": os.strerror(40),
    "none.yaml": os.strerror(2),
    "ok.yaml/x.yaml": os.strerror(20),
    "x" * 5000: os.strerror(2),
}


@pytest.mark.parametrize("target", LINKS)
def test_a_link_is_followed_in_its_directory_alone(store: Store, target: str) -> None:
    """Sabotage, each: take `edge2` for a part of `edge`, a path from the root for one from here, `.git` for a
    directory like any other."""
    x = store.file("x")
    others = store.directory(x__yaml=x)
    edge = store.directory(ok__yaml=store.file("ok"), link__yaml=store.link(target), __git=others)
    tree = store.tree(store.directory(edge=edge, edge2=others, x__yaml=x), "edge")
    [problem] = tree.look(0.0).problems
    assert (problem.file, paths(tree)) == ("link.yaml", ["ok.yaml"])
    assert LINKS[target] in problem.message
    with pytest.raises((Missing, BadInput)) as refused:
        tree.read("link.yaml", 0.0)
    assert isinstance(refused.value, Missing) or LINKS[target] in str(refused.value)


@pytest.mark.parametrize("target", ["real/x.yaml", "./real/../real/x.yaml", "other/x.yaml"])
def test_a_link_inside_is_another_name(store: Store, target: str) -> None:
    real = store.directory(x__yaml=store.file("x"))
    edge = store.directory(a__yaml=store.link(target), other=store.link("real"), real=real)
    tree = store.tree(store.directory(edge=edge), "edge")
    assert (paths(tree), tree.look(0.0).problems) == (["real/x.yaml"], ())
    assert tree.read("a.yaml", 0.0).data == b"x"


def test_a_way_of_links_has_an_end(store: Store) -> None:
    many = {f"{at:02}.yaml": store.link(f"{at + 1:02}.yaml") for at in range(60)}
    tree = store.tree(store.odd_directory({**many, "60.yaml": store.file("x")}))
    assert tree.read("20.yaml", 0.0).data == b"x"
    with pytest.raises(BadInput, match=os.strerror(40)):
        tree.read("19.yaml", 0.0)


def test_what_is_no_file_is_not_read(store: Store) -> None:
    top = store.directory(sub=store.directory(x__yaml=store.file("x")), __git=store.directory())
    tree = store.tree(top)
    for path, why in {
        "sub": "it is no regular file",
        ".git": "it lies in .git, which is no part of the tree",
        "sub/.git/x": "it lies in .git, which is no part of the tree",
    }.items():
        with pytest.raises(BadInput, match=why):
            tree.read(path, 0.0)
    with pytest.raises(Missing):
        tree.read("none", 0.0)


def cat_files() -> list[psutil.Process]:
    """What this process has begun, as far as it is git."""
    return [one for one in psutil.Process().children() if one.name() == "git"]


def test_what_went_wrong_once_is_not_in_the_next_answer(store: Store) -> None:
    """Sabotage: go on with the same process. It still has the answer to what was asked before."""
    _, file = store.file("content")
    _, tree = store.directory(x__yaml=store.file("x"))
    for wrong, what, why in ((tree, BadInput, "a tree"), ("0" * 40, Unsound, "blob 00.*: missing")):
        with pytest.raises(what, match=why):
            store.objects.blob(wrong, 100)
        assert store.objects.blob(file, 100) == b"content"
    assert store.objects.blob(file, 3) == b"cont", "one more, which tells that there is more"
    assert store.objects.blob(file, 100) == b"content"
    [process] = cat_files()
    process.kill()
    process.wait()
    with pytest.raises(Unsound):
        store.objects.blob(file, 100)
    assert store.objects.blob(file, 100) == b"content"
    assert len(cat_files()) == 1
    store.objects.rest()
    assert cat_files() == []
