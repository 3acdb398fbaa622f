"""What documents say together that is no mistake in any of them, and still not what their author can want."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from state.desired import Desired

IMAGES = """\
api: holdfast/v1
kind: images
name: default
default_label: x
images:
  x: {source: "https://images.example/x.qcow2", sha256: "%s"}
"""


class Tree:
    """A directory of documents."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = DirectorySource(path, host="here")
        (path / "images.yaml").write_text(IMAGES % ("1" * 64))

    def vm(self, name: str, *on: str, more: str = "") -> None:
        text = f"api: holdfast/v1\nkind: vm\nname: {name}\n{more}depends_on: [{', '.join(on)}]\n"
        (self._path / f"{name}.yaml").write_text(text)

    def write(self, name: str, text: str) -> None:
        (self._path / name).write_text(text)

    def load(self) -> Desired:
        return self._source.load(0.0)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_dependency_that_no_document_makes_is_told_where_it_stands(tree: Tree) -> None:
    tree.vm("web", "db", "cache")
    tree.vm("cache")
    for _ in range(2):  # also when nothing has changed since the last look
        [advice] = tree.load().advice
        assert str(advice.where) == "web.yaml:4"
        assert advice.message.startswith("`web` depends on `db`, and no document for this host")
    tree.vm("db")
    found = tree.load()
    assert found.advice == ()
    assert set(found.vms) == {"web", "db", "cache"}


@pytest.mark.parametrize("broken", ["api: holdfast/v1\nkind: vm\nname: db\nmemory: x\n", "{"])
def test_a_dependency_whose_document_is_broken_is_no_slip(tree: Tree, broken: str) -> None:
    tree.vm("web", "db")
    tree.write("db.yaml", broken)
    found = tree.load()
    assert found.advice == ()
    assert len(found.problems) == 1


def test_vms_that_wait_for_each_other_are_refused_with_the_way_round(tree: Tree) -> None:
    tree.vm("a", "free", "b")
    tree.vm("b", "c")
    tree.vm("c", "a")
    tree.vm("free")
    tree.vm("outside", "a")
    found = tree.load()
    assert set(found.vms) == {"free", "outside"}
    said = {str(problem.name): (problem.column, problem.message) for problem in found.problems}
    assert set(said) == {"a", "b", "c"}
    assert said["a"][0] == 20
    assert "in a circle, a -> b -> c -> a, so that none of them" in said["a"][1]
    assert "in a circle, b -> c -> a -> b, so that none of them" in said["b"][1]


def test_a_long_circle_is_told_in_short(tree: Tree) -> None:
    for number in range(20):
        tree.vm(f"n{number}", f"n{(number + 1) % 20}")
    messages = [problem.message for problem in tree.load().problems]
    assert len(messages) == 20
    assert any("n3 -> n4 -> n5 -> n6 -> … -> n3, so" in message for message in messages)


def test_two_circles_are_both_told(tree: Tree) -> None:
    for one, other in (("a", "b"), ("b", "a"), ("x", "y"), ("y", "x")):
        tree.vm(one, other)
    assert {problem.name for problem in tree.load().problems} == {"a", "b", "x", "y"}


def test_a_circle_that_goes_over_another_host_is_none_here(tree: Tree) -> None:
    tree.vm("a", "b")
    tree.vm("b", "a", more="hosts: [elsewhere]\n")
    assert set(tree.load().vms) == {"a"}


def test_a_check_that_nothing_leads_to_is_refused(tree: Tree) -> None:
    tree.write("images.yaml", (IMAGES % ("1" * 64)).replace('", sha', '", nocloud: false, sha'))
    tree.vm("web", more="health: {tcp: 80}\n")
    tree.vm("in", more="health: {ssh: true}\n")
    tree.vm("way", more="health: {tcp: 80}\nports: [{host: 8080, guest: 80}]\n")
    found = tree.load()
    assert set(found.vms) == {"way"}
    said = {str(problem.name): problem.message for problem in found.problems}
    assert "so that nobody can log in to check port 80 (check a port that `ports` f" in said["web"]
    assert "so that nobody can log in to check it (check a port" in said["in"]
