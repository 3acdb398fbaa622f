"""One hostile file in a tree costs little, says where it is wrong, and touches no other name."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from agent.source.directory import DirectorySource
from state.desired import Desired
from tests.hostile.documents import BOMBS, NAMES, TRAPS, TREES
from tests.trees import HOST, NOW, load, tree, vm

DEADLINE = 5.0
"""Seconds of this process's work for one file; most take a few milliseconds."""


def look(root: Path) -> Desired:
    start = time.process_time()
    source = DirectorySource(root, host=HOST)
    desired = source.load(NOW)
    again = source.load(NOW)
    assert time.process_time() - start < DEADLINE
    assert again == desired
    for problem in desired.problems:
        assert str(problem).isprintable()
        assert len(problem.message) < 1000
    return desired


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_cannot_be_read_hides_only_what_it_might_own(tmp_path: Path, name: str) -> None:
    desired = look(tree(tmp_path, {"web.yaml": vm("web"), "evil.yaml": BOMBS[name]}))
    assert list(desired.vms) == ["web"]
    [problem] = desired.problems
    assert (problem.file, problem.name) == ("evil.yaml", None)
    assert problem.line >= 1
    assert problem.column >= 1
    assert desired.unproven is not None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", TRAPS)
def test_a_document_that_is_refused_holds_its_own_name_only(tmp_path: Path, name: str) -> None:
    desired = look(tree(tmp_path, {"web.yaml": vm("web"), "evil.yaml": TRAPS[name]}))
    assert list(desired.vms) == ["web"]
    assert desired.problems
    assert {(problem.file, problem.name) for problem in desired.problems} == {("evil.yaml", "evil")}
    assert desired.unproven is None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_is_never_wanted(tmp_path: Path, name: str) -> None:
    text = f'api: holdfast/v1\nkind: vm\nname: "{name}"\n'
    desired = look(tree(tmp_path, {"web.yaml": vm("web"), "evil.yaml": text}))
    assert list(desired.vms) == ["web"]
    assert {problem.name for problem in desired.problems} == {None}
    assert desired.unproven is not None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", TREES)
def test_whatever_lies_in_a_tree_the_rest_of_it_is_read(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "tree", {"web.yaml": vm("web")})
    TREES[name](root)
    try:
        desired = look(root)
        assert list(desired.vms) == ["web"]
        assert "root:x:0" not in repr(desired)
        assert desired.unproven or not desired.problems
    finally:
        if name == "directories without end":
            shutil.rmtree(root)


@pytest.mark.timeout(120)
def test_many_documents_in_one_file_that_all_fail_cost_no_more_than_reading_it(
    tmp_path: Path,
) -> None:
    """Catches: parsing a file again for each of its problems."""
    bad = "---\n".join(vm(f"vm{n}", "cpus: 0") for n in range(4_000))
    same = "---\n".join(vm(f"x{n}", "ports: [{host: 80, guest: 1}]") for n in range(4_000))
    twice = "---\n".join(vm("web") for _ in range(4_000))
    desired = look(tree(tmp_path, {"a.yaml": bad, "b.yaml": same, "c.yaml": twice}))
    assert desired.vms == {}
    assert len(desired.problems) == 12_000


@pytest.mark.timeout(60)
def test_a_tree_of_bombs_is_read_in_bounded_time(tmp_path: Path) -> None:
    files = {f"{index}.yaml": data for index, data in enumerate(BOMBS.values())}
    desired = load(tree(tmp_path, {"web.yaml": vm("web"), **files}))
    assert list(desired.vms) == ["web"]
    assert len(desired.problems) == len(BOMBS)
