"""A directory that is looked at again and again: what changed is seen, what did not is not read."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.source.absence import BELIEVED_AFTER
from agent.source.directory import DirectorySource
from agent.source.files import SETTLED_AFTER, is_fresh
from state.desired import Desired
from state.ids import Name
from tests.trees import HOST, LONG_AGO, MAP, NOW, job, messages, tree, vm, write

WEB, DB = Name("web"), Name("db")


def source_of(root: Path) -> DirectorySource:
    return DirectorySource(root, host=HOST)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The regular files that Python opens meanwhile; an audit hook cannot be removed, so it is silenced."""
    seen: list[str] = []
    listening = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open" and str(arguments[0]).endswith((".yaml", ".cfg")):
            seen.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield seen
    listening = False


def memory_of(desired: Desired) -> int:
    return desired.vms[WEB].spec.memory >> 20


def test_nothing_changed_is_the_same_answer_and_opens_no_file(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "user_data_file: u.cfg"), "u.cfg": "x"})
    source = source_of(root)
    before = source.load(NOW)
    with opened_files() as opened:
        assert source.load(NOW + 1) is before
        assert opened == []


def test_one_changed_file_is_the_only_one_that_is_read_again(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"vm{n}.yaml": vm(f"vm{n}") for n in range(20)})
    source = source_of(root)
    before = source.load(NOW)
    write(root, {"vm7.yaml": vm("vm7", "cpus: 3")})
    with opened_files() as opened:
        after = source.load(NOW)
        assert opened == ["vm7.yaml"]
    changed = [name for name in after.vms if after.vms[name] is not before.vms[name]]
    assert changed == ["vm7"]
    assert after.vms[Name("vm7")].spec.cpus == 3


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "memory: 512MiB")})
    source = source_of(root)
    assert memory_of(source.load(NOW)) == 512
    write(root, {"web.yaml": vm("web", "memory: 513MiB")})
    assert (root / "web.yaml").stat().st_mtime == LONG_AGO
    assert memory_of(source.load(NOW)) == 513


def test_a_file_that_was_replaced_by_an_older_one_is_seen(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"web.yaml": vm("web", "memory: 512MiB")})
    source = source_of(root)
    source.load(NOW)
    write(tmp_path, {"other.yaml": vm("web", "memory: 513MiB")}).joinpath("other.yaml").replace(
        root / "web.yaml"
    )
    assert memory_of(source.load(NOW)) == 513


def test_a_stamp_proves_something_only_when_the_change_was_long_ago() -> None:
    ns = 1_000_000_000
    stamp = (1, 2, 3, 100 * ns, 100 * ns)
    assert is_fresh(stamp, 100 + SETTLED_AFTER - 0.001)
    assert not is_fresh(stamp, 100 + SETTLED_AFTER + 0.001)
    assert is_fresh(stamp, 50), "a clock behind that of the file system proves nothing"
    assert is_fresh((1, 2, 3, 0, 100 * ns), 101), "the time of content can be set by anybody"


def test_changed_user_data_is_a_changed_vm(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "user_data_file: u.cfg"), "u.cfg": "one"})
    source = source_of(root)
    assert source.load(NOW).vms[WEB].spec.user_data == "one"
    write(root, {"u.cfg": "two"})
    assert source.load(NOW).vms[WEB].spec.user_data == "two"
    (root / "u.cfg").unlink()
    assert [problem.name for problem in source.load(NOW).problems] == ["web"]
    write(root, {"u.cfg": "three"})
    assert source.load(NOW).vms[WEB].spec.user_data == "three"


def test_user_data_that_stays_missing_is_not_looked_for_by_reading_again(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "user_data_file: u.cfg")})
    source = source_of(root)
    before = source.load(NOW)
    assert source.load(NOW) is before


def test_a_changed_image_map_changes_the_vms_that_use_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web")})
    source = source_of(root)
    before = source.load(NOW).vms[WEB].spec
    write(root, {"images.yaml": MAP.replace("1" * 64, "2" * 64)})
    after = source.load(NOW).vms[WEB].spec
    assert (before.image.digest, after.image.digest) == ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
    assert before.digest != after.digest


def test_a_changed_image_map_outside_the_tree_is_seen(tmp_path: Path) -> None:
    root = write(tmp_path / "tree", {"web.yaml": vm("web")})
    write(tmp_path, {"map.yaml": MAP})
    source = DirectorySource(root, host=HOST, images_file=tmp_path / "map.yaml")
    before = source.load(NOW)
    assert source.load(NOW) is before
    write(tmp_path, {"map.yaml": MAP.replace("768MiB", "640MiB")})
    assert memory_of(source.load(NOW)) == 640


def test_changed_ignore_rules_are_seen(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web"), "sub/db.yaml": vm("db")})
    source = source_of(root)
    assert sorted(source.load(NOW).vms) == ["db", "web"]
    write(root, {".holdfastignore": "sub/\n"})
    assert sorted(source.load(NOW).vms) == ["web"]
    write(root, {".holdfastignore": "web.yaml\n"})
    assert sorted(source.load(NOW).vms) == ["db"]
    (root / ".holdfastignore").unlink()
    assert sorted(source.load(NOW).vms) == ["db", "web"]


def test_a_broken_edit_holds_the_vm_and_a_mended_one_releases_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    write(root, {"web.yaml": vm("web", "cpus: 1")[:-2] + "[\n"})
    held = source.load(NOW)
    assert list(held.vms) == ["db"]
    assert held.unproven == "web.yaml:5:1 cannot be read and might own any name"
    write(root, {"web.yaml": vm("web", "cpus: 2")})
    mended = source.load(NOW)
    assert (mended.unproven, mended.problems) == (None, ())
    assert mended.vms[WEB].spec.cpus == 2


# What vanished


def vanish(root: Path, how: str) -> None:
    match how:
        case "removed":
            (root / "web.yaml").unlink()
        case "renamed away":
            (root / "web.yaml").rename(root / "web.yaml~")
        case "commented out":
            write(root, {"web.yaml": vm("web").replace("\n", "\n# ").replace("api", "# api")})
        case _:
            write(root, {"web.yaml": vm("web", "hosts: [there]")})


VANISHED = ["removed", "renamed away", "commented out", "for another host"]


@pytest.mark.parametrize("how", VANISHED)
def test_a_name_that_vanished_is_held_until_it_stayed_away(tmp_path: Path, how: str) -> None:
    """Catches: believing the moment in which an editor has renamed a file and not yet written it anew."""
    root = tree(tmp_path, {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    vanish(root, how)
    just_gone = source.load(NOW + 5)
    assert WEB not in just_gone.vms
    [problem] = just_gone.problems
    assert (problem.name, problem.file) == ("web", "web.yaml")
    assert "was here a moment ago" in problem.message
    assert just_gone.unproven is None
    assert just_gone.look_again == BELIEVED_AFTER
    later = source.load(NOW + 5 + BELIEVED_AFTER / 2)
    assert [one.name for one in later.problems] == ["web"]
    assert later.look_again == BELIEVED_AFTER / 2
    gone = source.load(NOW + 5 + BELIEVED_AFTER)
    assert (gone.problems, gone.look_again) == ((), None)
    assert WEB not in gone.vms


@pytest.mark.parametrize("nothing", ["", "\n", " \n\n"])
def test_a_file_that_was_emptied_deletes_nothing_however_long_it_stays_so(
    tmp_path: Path, nothing: str
) -> None:
    """A full disk and a crash leave it so; and the next agent knows no more than that it is empty."""
    root = tree(tmp_path, {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    write(root, {"web.yaml": nothing})
    for found in (source.load(NOW + 5), source.load(NOW + 500), source_of(root).load(NOW + 500)):
        assert list(found.vms) == ["db"]
        [problem] = found.problems
        assert str(problem) == (
            "web.yaml:1:1: the file is empty (write a document into it, or remove it)"
        )
        assert found.unproven is not None
    (root / "web.yaml").unlink()
    assert source.load(NOW + 1000).problems[0].name == "web"
    assert source.load(NOW + 1000 + BELIEVED_AFTER).unproven is None


def test_what_is_removed_piece_by_piece_is_believed_as_a_whole(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"{name}.yaml": vm(name) for name in ("a", "b", "c", "d")})
    source = DirectorySource(root, host=HOST)
    desired, now = source.load(NOW), NOW
    for name in ("a", "b", "c"):
        (root / f"{name}.yaml").unlink()
        now += 0.6
        desired = source.load(now)
        assert {problem.reason for problem in desired.problems} == {"JustGone"}
    assert {problem.name for problem in desired.problems} == {"a", "b", "c"}
    assert desired.look_again is not None
    desired = source.load(now + desired.look_again)
    assert (desired.problems, list(desired.vms)) == ((), ["d"])


@pytest.mark.parametrize("how", VANISHED)
def test_a_name_that_came_back_was_never_gone(tmp_path: Path, how: str) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    before = source.load(NOW)
    vanish(root, how)
    source.load(NOW)
    write(root, {"web.yaml": vm("web")})
    after = source.load(NOW + 10)
    assert (after.problems, after.look_again) == ((), None)
    assert after.vms[WEB] == before.vms[WEB]
    vanish(root, how)
    assert [one.name for one in source.load(NOW + 20).problems] == ["web"]


def test_a_clock_that_was_set_back_makes_a_name_no_older(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    (root / "web.yaml").unlink()
    source.load(NOW)
    assert source.load(NOW - 3600).look_again == BELIEVED_AFTER
    assert source.load(NOW - 3600 + BELIEVED_AFTER).problems == ()


def test_time_that_a_tree_was_unreadable_does_not_count_as_away(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"web.yaml": vm("web"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    (root / "web.yaml").unlink()
    source.load(NOW)
    root.rename(tmp_path / "unmounted")
    assert source.load(NOW + 100).unproven is not None
    (tmp_path / "unmounted").rename(root)
    assert [one.name for one in source.load(NOW + 200).problems] == ["web"]
    assert source.load(NOW + 200 + BELIEVED_AFTER).problems == ()


def test_an_agent_that_starts_holds_no_name_that_it_never_saw(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web")})
    assert messages(source_of(root).load(NOW)) == []


def test_a_job_that_vanished_is_held_until_it_stayed_away(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": job("t"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    (root / "t.yaml").unlink()
    just_gone = source.load(NOW + 5)
    assert just_gone.jobs == {}
    assert [(one.name, one.kind) for one in just_gone.problems] == [("t", "job")]
    assert just_gone.problems[0].message.startswith("job `t` was here a moment ago")
    assert source.load(NOW + 5 + BELIEVED_AFTER).problems == ()


def test_a_vm_is_not_replaced_by_a_job_in_the_moment_in_which_its_file_is_away(
    tmp_path: Path,
) -> None:
    """Catches: an Absence that remembers names alone, for which a vm is there while a job bears its name."""
    root = tree(tmp_path, {"a.yaml": vm("t"), "b.yaml": job("t"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    (root / "a.yaml").unlink()
    moment = source.load(NOW + 5)
    assert (list(moment.vms), moment.jobs) == (["db"], {})
    assert {(one.name, one.kind) for one in moment.problems} == {("t", "vm")}
    write(root, {"a.yaml": vm("t")})
    assert {one.name for one in source.load(NOW + 5.1).problems} == {"t"}
    (root / "a.yaml").unlink()
    source.load(NOW + 10)
    later = source.load(NOW + 10 + BELIEVED_AFTER)
    assert (list(later.vms), list(later.jobs), later.problems) == (["db"], ["t"], ())


def test_a_vm_that_becomes_a_job_is_believed_gone_first(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": vm("t"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    write(root, {"t.yaml": job("t")})
    held = source.load(NOW + 5)
    assert ({one.name for one in held.problems}, held.jobs) == ({"t"}, {})
    after = source.load(NOW + 5 + BELIEVED_AFTER)
    assert (list(after.jobs), after.problems) == (["t"], ())


def test_a_name_whose_kind_was_not_clear_is_held_once_when_it_vanishes(tmp_path: Path) -> None:
    root = tree(tmp_path, {"t.yaml": job("t"), "db.yaml": vm("db")})
    source = source_of(root)
    source.load(NOW)
    write(root, {"t.yaml": job("t").replace("kind: job", "kind: jbo")})
    source.load(NOW + 100)
    write(root, {"t.yaml": job("t")})
    assert source.load(NOW + 200).problems == ()
    write(root, {"t.yaml": job("t").replace("kind: job", "kind: jbo")})
    source.load(NOW + 300)
    (root / "t.yaml").unlink()
    assert [(one.name, one.kind) for one in source.load(NOW + 400).problems] == [("t", "job")]
    assert source.load(NOW + 400 + BELIEVED_AFTER).problems == ()


# While others write


def rewrite_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def replace_whole(path: Path, text: str) -> None:
    other = path.with_name(".tmp")
    other.write_text(text)
    other.replace(path)


def rename_then_write(path: Path, text: str) -> None:
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def move_between_directories(path: Path, text: str) -> None:
    other = path.parent.parent / ("a" if path.parent.name == "z" else "z") / path.name
    path.rename(other)
    other.rename(path)


@pytest.mark.parametrize(
    "save", [rewrite_in_place, replace_whole, rename_then_write, move_between_directories]
)
def test_whatever_way_a_file_is_saved_its_name_is_never_absent(
    tmp_path: Path, save: Callable[[Path, str], None]
) -> None:
    """Catches: an Absence that believes at once, and a reader that takes half of a change for the whole."""
    root = tree(
        tmp_path, {"a/web.yaml": vm("web"), "z/keep.yaml": vm("keep"), "m/db.yaml": vm("db")}
    )
    text = vm("web", *(f"# {n}" for n in range(2_000)))
    source = source_of(root)
    source.load(time.time_ns() / 1e9)
    stop = threading.Event()

    def edit() -> None:
        while not stop.is_set():
            save(root / "a" / "web.yaml", text)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            desired = source.load(time.time_ns() / 1e9)
            held = {problem.name for problem in desired.problems}
            assert WEB in desired.vms or WEB in held or desired.unproven is not None, desired
            assert DB in desired.vms or desired.unproven is not None
            assert not held & set(desired.vms)
    finally:
        stop.set()
        editor.join()
    settled = source.load(time.time_ns() / 1e9 + 60)
    assert (sorted(settled.vms), settled.problems) == (["db", "keep", "web"], ())


def test_a_tree_that_is_moved_away_while_it_is_read_never_loses_a_name(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {f"d{n}/vm{n}.yaml": vm(f"vm{n}") for n in range(30)})
    source = source_of(root)
    names = set(source.load(NOW).vms)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            root.rename(tmp_path / "away")
            (tmp_path / "away").rename(root)

    mover = threading.Thread(target=swap)
    mover.start()
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            desired = source.load(NOW)
            held = {problem.name for problem in desired.problems}
            assert desired.unproven is not None or names <= set(desired.vms) | held
    finally:
        stop.set()
        mover.join()
    assert os.path.isdir(root)
    assert set(source.load(NOW).vms) == names
