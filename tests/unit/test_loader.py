"""What is read again, over a tree in memory whose stamps are as coarse as those of old file systems."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import pytest

from agent.source.loader import Loader
from agent.source.text import MOST_BYTES
from agent.source.tree import Content, Entry, Look, Missing, Moved
from state.spec.vm import VmDocument
from tests.trees import job, vm

TICK = 2.0


class CoarseTree:
    """Files whose stamps are their size and the tick in which they changed."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, float]] = {}
        self.read_paths: list[str] = []
        self.vanishing: set[str] = set()

    def write(self, path: str, text: str, now: float) -> None:
        self.files[path] = (text.encode(), now)

    @property
    def directory(self) -> Path | None:
        return None

    def stamp(self, path: str) -> Hashable | None:
        data, changed = self.files.get(path, (b"", -1.0))
        return (len(data), changed // TICK) if path in self.files else None

    def _fresh(self, path: str, now: float) -> bool:
        return self.files[path][1] > now - TICK

    def look(self, now: float) -> Look:
        return Look(
            tuple(
                Entry(path, self.stamp(path), self._fresh(path, now))
                for path in sorted(self.files)
                if path.endswith(".yaml")
            )
        )

    def read(self, path: str, now: float, most: int = MOST_BYTES) -> Content:
        self.read_paths.append(path)
        if path not in self.files or path in self.vanishing:
            raise Missing("there is no such file")
        return Content(self.files[path][0][: most + 1], self.stamp(path), self._fresh(path, now))


def memory_of(loader: Loader) -> int:
    [reading] = loader.readings
    assert isinstance(reading.document, VmDocument)
    assert reading.document.memory is not None
    return reading.document.memory >> 20


def test_a_change_that_leaves_no_trace_in_the_stamp_is_seen() -> None:
    """Catches: trusting the stamp of a file that had just been changed when it was read."""
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("web.yaml", vm("web", "memory: 512MiB"), 100.0)
    assert loader.refresh(100.1)
    tree.write("web.yaml", vm("web", "memory: 513MiB"), 100.2)
    assert tree.stamp("web.yaml") == (len(vm("web", "memory: 512MiB")), 50)
    assert loader.refresh(500.0)
    assert memory_of(loader) == 513


def test_a_file_that_was_fresh_is_read_once_more_and_then_believed() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("web.yaml", vm("web"), 100.0)
    assert loader.refresh(100.1)
    assert not loader.refresh(200.0)
    assert tree.read_paths == ["web.yaml"] * 2
    assert not loader.refresh(300.0)
    assert tree.read_paths == ["web.yaml"] * 2


def test_user_data_that_leaves_no_trace_in_the_stamp_is_seen() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("web.yaml", vm("web", "user_data_file: u"), 10.0)
    tree.write("u", "one", 100.0)
    assert loader.refresh(100.1)
    tree.write("u", "two", 100.2)
    assert loader.refresh(500.0)
    assert [reading.user_data for reading in loader.readings] == ["two"]
    tree.read_paths.clear()
    assert not loader.refresh(600.0)
    assert tree.read_paths == []


def test_a_file_of_a_job_that_leaves_no_trace_in_the_stamp_is_seen() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("t.yaml", job(script="script_file: run"), 10.0)
    tree.write("run", "one", 100.0)
    assert loader.refresh(100.1)
    before = loader.readings[0].attachments["run"]
    tree.write("run", "two", 100.2)
    assert loader.refresh(500.0)
    after = loader.readings[0].attachments["run"]
    assert (before.digest, before.size) != (after.digest, after.size)
    tree.read_paths.clear()
    assert not loader.refresh(600.0)
    assert tree.read_paths == []


def test_a_file_that_many_jobs_name_is_read_once_and_not_for_a_change_of_theirs() -> None:
    """Catches: hashing a large file again for each document, or whenever one of them is edited."""
    tree = CoarseTree()
    loader = Loader(tree)
    files = "files: [{path: /a, source: data}, {path: /b, source: data}]"
    for number in range(5):
        tree.write(f"{number}.yaml", job(f"t{number}", files), 10.0)
    tree.write("data", "x", 10.0)
    loader.refresh(100.0)
    assert tree.read_paths.count("data") == 1
    tree.write("3.yaml", job("t3", files, "priority: 5"), 100.0)
    assert loader.refresh(200.0)
    assert tree.read_paths.count("data") == 1
    tree.write("data", "xy", 200.0)
    assert loader.refresh(300.0)
    assert tree.read_paths.count("data") == 2
    assert {one.attachments["data"].size for one in loader.readings} == {2}


def test_a_fresh_file_that_many_jobs_name_is_read_once_for_a_look() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    for number in range(5):
        tree.write(f"{number}.yaml", job(f"t{number}", script="script_file: run"), 10.0)
    tree.write("run", "x", 100.0)
    loader.refresh(100.1)
    assert tree.read_paths.count("run") == 1
    loader.refresh(100.2)
    assert tree.read_paths.count("run") == 2


def test_a_file_that_is_named_in_two_ways_is_one_and_one_that_is_no_longer_named_is_forgotten() -> (
    None
):
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("a/t.yaml", job("a", "files: [{path: /x, source: ../data}]"), 10.0)
    tree.write("b/t.yaml", job("b", "files: [{path: /x, source: ./../data}]"), 10.0)
    tree.write("data", "x", 10.0)
    loader.refresh(100.0)
    assert tree.read_paths.count("data") == 1
    for name in "ab":
        tree.write(f"{name}/t.yaml", job(name), 100.0)
    loader.refresh(200.0)
    for name in "ab":
        tree.write(f"{name}/t.yaml", job(name, "files: [{path: /x, source: ../data}]"), 200.0)
    loader.refresh(300.0)
    assert tree.read_paths.count("data") == 2


def test_a_document_is_kept_whole_while_nothing_in_its_file_changes() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("a.yaml", vm("a"), 10.0)
    tree.write("b.yaml", vm("b"), 10.0)
    loader.refresh(100.0)
    before = loader.readings
    tree.write("b.yaml", vm("b") + "# more\n", 100.0)
    assert loader.refresh(200.0)
    assert loader.readings[0] is before[0]
    assert loader.readings[1] is not before[1]


def test_a_tree_that_loses_its_files_while_it_is_read_is_no_answer() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("a.yaml", vm("a"), 10.0)
    loader.refresh(100.0)
    tree.write("b.yaml", vm("b"), 100.0)
    tree.vanishing.add("b.yaml")
    with pytest.raises(Moved):
        loader.refresh(200.0)
    assert [reading.name for reading in loader.readings] == ["a"]


def test_a_place_is_that_of_the_text_that_was_read() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("a.yaml", "# one\n" + vm("a", "cpus: 2"), 10.0)
    loader.refresh(100.0)
    [reading] = loader.readings
    assert loader.locate(reading, ("cpus",)) == (5, 7)
    assert loader.locate(reading, ("cpus",), at_key=True) == (5, 1)


def test_where_the_text_has_changed_since_a_place_is_where_the_document_began() -> None:
    tree = CoarseTree()
    loader = Loader(tree)
    tree.write("a.yaml", "# one\n" + vm("a", "cpus: 2"), 10.0)
    loader.refresh(100.0)
    tree.write("a.yaml", "\n\n\n" + vm("a", "cpus: 2"), 100.0)
    [reading] = loader.readings
    assert loader.locate(reading, ("cpus",)) == (2, 1)
