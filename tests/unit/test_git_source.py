"""What a branch of a real repository says, and what it cannot say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from agent.paths import StatePaths
from agent.source.git.clone import Clone
from agent.source.git.command import Git
from agent.source.git.judge import Trust
from agent.source.git.objects import Objects, Unsound
from agent.source.git.origin import origin
from agent.source.git.source import GitSource
from state.desired import Desired
from state.ids import Name
from tests.gits import Repository, git
from tests.trees import HOST, MAP, NOW, messages, vm

TREE = {"images.yaml": MAP, "web.yaml": vm("web"), "db.yaml": vm("db")}


class Place:
    """A repository, and a state directory with one agent after the other."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.paths = StatePaths(root / "state")
        self.paths.root.mkdir()
        self.first = self.repository.commit(TREE)
        self.source = self.agent()

    def agent(self, trust: Trust | None = None, path: str = "", branch: str = "main") -> GitSource:
        self.clone = Clone(self.paths, origin(self.repository.url, branch, path), trust)
        self.source = GitSource(self.clone, host=HOST)
        return self.source

    def look(self) -> Desired:
        return self.source.load(NOW)

    def fetched(self) -> Desired:
        self.source.fetch()
        return self.look()

    def after(self, files: Mapping[str, str | bytes | None]) -> Desired:
        self.repository.commit(files)
        return self.fetched()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(desired: Desired) -> list[str]:
    return sorted(desired.vms)


def test_nothing_is_wanted_and_nothing_gone_before_the_first_fetch(place: Place) -> None:
    desired = place.look()
    assert (names(desired), desired.source.pending) == ([], True)
    assert desired.unproven == f"no commit of {place.clone.origin} was fetched yet"


def test_a_branch_says_what_is_wanted_and_of_which_commit(place: Place) -> None:
    desired = place.fetched()
    assert names(desired) == ["db", "web"]
    assert (desired.source.kind, desired.source.commit) == ("git", place.first)
    assert (desired.source.error, desired.source.pending, desired.unproven) == (None, False, None)
    second = place.repository.commit({"web.yaml": vm("web", "memory: 1GiB")})
    desired = place.fetched()
    assert desired.vms[Name("web")].source.commit == second
    assert desired.vms[Name("db")].source.commit == place.first, "this commit did not touch it"
    assert "db" not in place.after({"db.yaml": None}).vms


def test_only_what_changed_is_read_again(place: Place) -> None:
    before = place.fetched()
    after = place.after({"web.yaml": vm("web", "memory: 1GiB")})
    assert after.vms[Name("db")] is before.vms[Name("db")]
    assert place.fetched() is after or place.fetched() == after


def test_the_last_good_commit_outlives_agents_and_the_server(place: Place) -> None:
    place.fetched()
    place.repository.vanish()
    place.agent()
    assert names(place.look()) == ["db", "web"]
    desired = place.fetched()
    assert names(desired) == ["db", "web"]
    assert desired.source.commit == place.first
    assert desired.source.error is not None
    assert str(place.repository.bare) in desired.source.error
    assert desired.unproven is None


def test_a_deleted_branch_is_an_error_and_no_deletion(place: Place) -> None:
    place.fetched()
    git(place.repository.bare, "update-ref", "-d", "refs/heads/main")
    desired = place.fetched()
    assert names(desired) == ["db", "web"]
    assert desired.source.error == f"fetching {place.clone.origin}: there is no branch main in it"


def test_an_emptied_tree_proves_nothing(place: Place) -> None:
    place.fetched()
    desired = place.after(dict.fromkeys(TREE, None))
    assert desired.unproven is not None
    desired = place.after(TREE)
    assert desired.unproven is None


def test_a_directory_of_the_repository_can_be_all_there_is(place: Place) -> None:
    place.agent(path="hosts/a/")
    desired = place.fetched()
    assert desired.source.error == "the commit has no directory `hosts/a`"
    assert desired.unproven is not None
    desired = place.after({"hosts/a/x.yaml": vm("x"), "hosts/a/images.yaml": MAP})
    assert (names(desired), desired.source.error) == (["x"], None)
    assert desired.vms[Name("x")].source.file == "x.yaml"


@pytest.mark.parametrize("broken", ["web.yaml", "renamed.yaml", "new.yaml"])
def test_one_broken_file_holds_what_it_might_own_and_the_others_follow(
    place: Place, broken: str
) -> None:
    place.fetched()
    changes: dict[str, str | None] = {"db.yaml": vm("db", "memory: 2GiB"), "web.yaml": None}
    desired = place.after(changes | {broken: "kind: vm\nname: web\nmemory: [\n"})
    assert desired.vms[Name("db")].spec.memory == 2 << 30
    assert "web" not in desired.vms
    held = {problem.name for problem in desired.problems}
    assert held == {None}, "the text cannot tell its name"
    assert desired.unproven is not None, "so that no name is proven to be gone"
    assert broken in messages(desired)[0]


def test_a_name_that_two_files_give_is_held(place: Place) -> None:
    place.fetched()
    desired = place.after({"again.yaml": vm("web", "memory: 2GiB")})
    assert names(desired) == ["db"]
    assert {problem.name for problem in desired.problems} == {"web"}


@pytest.mark.parametrize("becomes", ["a link", "a link to nothing", "a submodule"])
def test_a_directory_that_cannot_be_looked_into_any_more_proves_nothing(
    place: Place, becomes: str
) -> None:
    """Sabotage: pass it over in silence. Everything that came from it is destroyed."""
    place.after({"team/a.yaml": vm("a")})
    work = place.repository.work
    shutil.rmtree(work / "team")
    if becomes == "a submodule":
        git(work, "rm", "-q", "--cached", "team/a.yaml")
        git(work, "update-index", "--add", "--cacheinfo", f"160000,{place.first},team")
        git(work, "commit", "-q", "-m", "a submodule")
        git(work, "push", "-q", "origin", "HEAD:main")
        desired = place.fetched()
    else:
        outside = work.parent if becomes == "a link" else Path("/no/such/place")
        (work / "team").symlink_to(outside)
        desired = place.after({})
    assert desired.unproven is not None
    [message] = messages(desired)
    assert message.startswith("team")
    assert ".holdfastignore" in message
    # Whoever ignores it by name says that nothing is to come from there.
    (work / ".holdfastignore").write_text("team\nteam/\n")
    git(work, "add", ".holdfastignore")
    git(work, "commit", "-q", "-m", "ignored")
    git(work, "push", "-q", "origin", "HEAD:main")
    desired = place.fetched()
    assert (names(desired), desired.unproven, messages(desired)) == (["db", "web"], None, [])


def test_a_tree_with_permissions_as_old_gits_wrote_them_is_read(place: Place) -> None:
    place.after({"vms/a.yaml": vm("a")})
    work = place.repository.work
    raw = subprocess.run(
        ["git", "-C", work, "cat-file", "tree", "HEAD^{tree}"], capture_output=True, check=True
    ).stdout
    odd = raw.replace(b"40000 vms\0", b"40755 vms\0").replace(b"100644 db", b"100664 db")
    assert odd != raw
    words = ("hash-object", "-w", "-t", "tree", "--literally", "--stdin")
    tree = git(work, *words, stdin=odd)
    commit = git(work, "commit-tree", tree, "-p", "HEAD", "-m", "odd")
    git(work, "push", "-q", "origin", f"{commit}:main")
    desired = place.fetched()
    assert (names(desired), desired.source.error) == (["a", "db", "web"], None)


@pytest.mark.parametrize("how", ["rewound", "amended", "replaced"])
def test_a_history_that_was_rewritten_is_refused_until_somebody_approves(
    place: Place, how: str, tmp_path: Path
) -> None:
    good = place.repository.commit({"web.yaml": None})
    place.fetched()
    repository = place.repository
    match how:
        case "rewound":
            git(repository.bare, "update-ref", "refs/heads/main", place.first)
        case "amended":
            repository.commit({"db.yaml": vm("db", "cpus: 3")}, "--amend")
        case _:
            repository.vanish()
            other = Repository(tmp_path / "other")
            other.commit({**TREE, "third.yaml": vm("third")})
            other.bare.rename(repository.bare)
    tip = git(repository.bare, "rev-parse", "main")
    for _ in range(2):
        desired = place.fetched()
        assert desired.source.commit == good
        assert names(desired) == ["db"]
        assert desired.source.error is None
        why = "the branch was set back, or its history was rewritten"
        why = "they have no commit in common" if how == "replaced" else why
        assert desired.source.refused == (
            f"commit {tip[:12]} does not follow {good[:12]}: {why}"
            f" (`holdfast approve {tip[:12]}` lets it pass)"
        )
        place.agent()
        assert place.look().source.refused == desired.source.refused
    with pytest.raises(Exception, match=f"what waits is {tip[:12]}"):
        place.source.approve("0123456")
    place.source.approve(tip[:12])
    desired = place.fetched()
    assert (desired.source.commit, desired.source.refused) == (tip, None)
    expected = {"rewound": ["db", "web"], "amended": ["db"], "replaced": ["db", "third", "web"]}
    assert names(desired) == expected[how]
    git(repository.work, "fetch", "-q", "origin", "main")
    git(repository.work, "reset", "-q", "--hard", "FETCH_HEAD")
    assert names(place.after({"db.yaml": None})) == [one for one in expected[how] if one != "db"]


def test_an_approval_is_for_one_commit(place: Place) -> None:
    place.repository.commit({"web.yaml": None})
    good = place.fetched().source.commit
    refused = place.repository.commit({"db.yaml": vm("db", "cpus: 3")}, "--amend")
    place.fetched()
    place.source.approve(refused)
    other = place.repository.commit({"db.yaml": vm("db", "cpus: 4")}, "--amend")
    desired = place.fetched()
    assert desired.source.commit == good
    assert desired.source.refused is not None
    assert other[:12] in desired.source.refused


@pytest.mark.parametrize("ended_by", ["another commit", "the good commit", "being followed"])
def test_an_approval_is_for_one_time(place: Place, ended_by: str) -> None:
    """Sabotage: remember it. The branch can be set back there at any later time, and nobody is asked."""
    bare = place.repository.bare
    good = place.repository.commit({"web.yaml": None})
    place.fetched()

    def named(commit: str) -> str | None:
        git(bare, "update-ref", "refs/heads/main", commit)
        return place.fetched().source.refused

    refused = place.repository.commit({"db.yaml": vm("db", "cpus: 3")}, "--amend")
    other = place.repository.commit({"db.yaml": vm("db", "cpus: 4")}, "--amend")
    assert named(refused) is not None
    place.source.approve(refused)
    match ended_by:
        case "another commit":
            assert named(other) is not None
        case "the good commit":
            assert named(good) is None
        case _:
            assert named(refused) is None
            git(place.repository.work, "reset", "-q", "--hard", refused)
            good = place.repository.commit({"README": "what follows"})
            assert named(good) is None
    assert named(refused) is not None
    assert place.look().source.commit == good


def test_a_branch_that_comes_back_is_followed_again(place: Place) -> None:
    good = place.repository.commit({"web.yaml": None})
    place.fetched()
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    assert place.fetched().source.refused is not None
    git(place.repository.bare, "update-ref", "refs/heads/main", good)
    desired = place.fetched()
    assert (desired.source.refused, desired.source.commit) == (None, good)


def test_a_branch_that_goes_on_from_where_it_was_set_back_is_followed(place: Place) -> None:
    """The clone begins with the commit that it goes on to, and does not know what came before that."""
    good = place.repository.commit({"web.yaml": None})
    place.fetched()
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    place.fetched()
    place.source.approve(place.first)
    assert place.fetched().source.commit == place.first
    git(place.repository.bare, "update-ref", "refs/heads/main", good)
    desired = place.fetched()
    assert (desired.source.refused, desired.source.commit) == (None, good)


def test_a_clone_that_is_lost_where_its_commit_is_gone_too_is_made_of_what_is_approved(
    place: Place, tmp_path: Path
) -> None:
    place.fetched()
    place.repository.vanish()
    other = Repository(tmp_path / "other")
    tip = other.commit({**TREE, "third.yaml": vm("third")})
    other.bare.rename(place.repository.bare)
    shutil.rmtree(place.clone.git.directory)
    place.agent()
    for _ in range(2):
        desired = place.fetched()
        assert desired.unproven is not None
        assert desired.source.refused is not None
    place.source.approve(tip)
    desired = place.fetched()
    assert (names(desired), desired.source.commit) == (["db", "third", "web"], tip)
    assert (desired.source.refused, desired.source.error, desired.unproven) == (None, None, None)


def test_an_agent_that_ends_while_a_clone_takes_the_place_of_another_loses_neither(
    place: Place,
) -> None:
    """Sabotage: clear the old one away before the new one is in its place; or let a `plan` beside a live agent put it
    back."""
    place.fetched()
    clone = place.clone.git.directory
    clone.rename(clone.with_name(".old.git.part"))
    place.repository.vanish()
    place.agent()
    assert names(place.look()) == ["db", "web"]
    assert not clone.exists(), "whoever only looks puts nothing back"
    desired = place.fetched()
    assert (names(desired), desired.unproven) == (["db", "web"], None)
    assert clone.exists()


def test_who_looks_while_a_clone_is_made_anew_sees_what_was_followed(place: Place) -> None:
    """Sabotage: read where the new one is to be. A `plan` beside an agent says that the commit is missing; or give up a
    lock that a program of another thread has for as long as it is being started."""
    place.fetched()
    clone, errors = place.clone, []

    def make_anew() -> None:
        for _ in range(10):
            clone.suspect()
            clone.fetch()
            errors.append(clone.standing.error)

    remaking = threading.Thread(target=make_anew)
    remaking.start()
    seen = []
    while remaking.is_alive():
        desired = place.agent().load(NOW)
        seen.append((names(desired), desired.source.error))
    assert errors == [None] * 10
    assert [one for one in seen if one != (["db", "web"], None)] == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", None])
def test_what_was_followed_is_known_though_the_record_is_lost(
    place: Place, content: str | None
) -> None:
    """Sabotage: begin as if nothing had been followed. A rewind is then followed without a word."""
    good = place.repository.commit({"web.yaml": None})
    place.fetched()
    record = place.clone.git.directory.with_name("record.json")
    record.unlink()
    if content is not None:
        record.write_text(content)
    place.agent()
    assert names(place.look()) == ["db"]
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    desired = place.fetched()
    assert (desired.source.commit, names(desired)) == (good, ["db"])
    assert desired.source.refused is not None


@pytest.mark.parametrize("record", [None, "{"])
@pytest.mark.parametrize("broken", ["HEAD", "config", "refs/holdfast/good", "the clone"])
def test_a_commit_that_nobody_can_tell_any_more_holds_everything(
    place: Place, broken: str, record: str | None
) -> None:
    """Sabotage: begin as if nothing had been followed, or do not begin."""
    place.repository.commit({"web.yaml": None})
    place.fetched()
    clone = place.clone.git.directory
    if broken == "the clone":
        shutil.rmtree(clone)
        record = "{"  # as long as there is a trace of what was
    else:
        (clone / broken).write_bytes(b"[\0")
    damage(clone.with_name("record.json"), record)
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    place.agent()
    unproven = place.look().unproven
    assert unproven is not None
    assert unproven.startswith(
        f"which commit of {place.clone.origin} was followed is lost: its record"
    )
    for _ in range(2):
        desired = place.fetched()
        assert (desired.source.commit, names(desired)) == (None, [])
        assert desired.unproven is not None
        assert (desired.source.refused or "").startswith(
            f"commit {place.first[:12]} may not follow what was followed before"
        )
        place.agent()
    place.source.approve(place.first)
    desired = place.fetched()
    assert (desired.source.commit, names(desired)) == (place.first, ["db", "web"])
    assert (desired.source.refused, desired.source.error, desired.unproven) == (None, None, None)
    assert names(place.after({"db.yaml": None})) == []


def damage(record: Path, content: str | None) -> None:
    if content is None:
        record.unlink()
    else:
        record.write_text(content)


def test_a_host_without_git_holds_everything_until_there_is_one(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.fetched()
    place.clone.git.directory.with_name("record.json").unlink()
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    place.agent()
    desired = place.fetched()
    assert "git cannot be run" in (desired.unproven or "")
    monkeypatch.setenv("PATH", path)
    desired = place.fetched()
    assert (desired.source.commit, names(desired)) == (place.first, ["db", "web"])
    assert (desired.source.refused, desired.unproven) == (None, None)


@pytest.mark.parametrize("named", ["a tag", "a tag in place of a branch"])
def test_a_tag_is_no_branch(place: Place, named: str) -> None:
    git(place.repository.work, "tag", "-a", "v1", "-m", "a version")
    git(place.repository.work, "push", "-q", "origin", "v1")
    if named == "a tag":
        place.agent(branch="v1")
        why = "there is no branch v1 in it, only a tag of that name, and a tag is not followed"
    else:
        tag = git(place.repository.bare, "rev-parse", "v1")
        (place.repository.bare / "refs" / "heads" / "main").write_text(f"{tag}\n")
        why = "refs/heads/main names a tag, no commit"
    for _ in range(2):
        desired = place.fetched()
        assert desired.source.error == f"fetching {place.clone.origin}: {why}"
        assert (desired.source.commit, desired.source.refused) == (None, None)
    if named != "a tag":
        assert names(place.after({"new.yaml": vm("new")})) == ["db", "new", "web"]


@pytest.mark.parametrize("lost", ["an object", "all objects", "the clone", "HEAD", "config"])
def test_a_clone_that_is_broken_is_made_anew(place: Place, lost: str) -> None:
    place.fetched()
    clone = place.clone.git.directory
    match lost:
        case "an object":
            for pack in clone.glob("objects/pack/*.pack"):
                data = bytearray(pack.read_bytes())
                data[len(data) // 2] ^= 0xFF
                pack.chmod(0o600)
                pack.write_bytes(data)
        case "all objects":
            shutil.rmtree(clone / "objects" / "pack")
        case "the clone":
            shutil.rmtree(clone)
        case "config":
            (clone / "config").write_bytes(b"[\0")
        case _:
            (clone / "HEAD").unlink()
    place.agent()
    if lost != "HEAD":
        desired = place.look()
        assert desired.source.error is not None
        assert desired.unproven is not None
    place.fetched()
    desired = place.fetched()
    assert (names(desired), desired.source.error) == (["db", "web"], None)
    assert desired.source.commit == place.first
    assert names(place.after({"web.yaml": None})) == ["db"]
    git(clone, "fsck", "--strict")


def test_a_broken_clone_holds_all_while_the_server_is_away(place: Place) -> None:
    before = place.fetched()
    shutil.rmtree(place.clone.git.directory / "objects" / "pack")
    place.repository.vanish()
    for _ in range(2):
        desired = place.fetched()
        assert desired.vms == before.vms, "they were read before"
        assert desired.source.error is not None


def test_a_new_commit_that_cannot_be_read_leaves_all_as_it_was_wanted(place: Place) -> None:
    """Sabotage: want nothing where nothing can be read. Everything is destroyed then."""
    before = place.fetched()
    place.repository.commit({"web.yaml": None})
    place.source.fetch()
    shutil.rmtree(place.clone.git.directory / "objects" / "pack")
    desired = place.look()
    assert desired.vms == before.vms
    assert desired.source.error is not None
    assert names(place.fetched()) == ["db"], "it is fetched anew"


def test_a_reader_that_is_killed_is_told_and_followed_by_another(place: Place) -> None:
    """Sabotage: let what closes it raise. No other is started then."""
    objects = Objects(Git(place.repository.bare))
    try:
        tree = objects.root(place.first)
        [reader] = (one for one in psutil.Process().children() if "cat-file" in one.cmdline())
        reader.kill()
        look_until(lambda: reader.status() == psutil.STATUS_ZOMBIE)
        with pytest.raises(Unsound):
            objects.tree(tree)
        assert {one.name for one in objects.tree(tree)} == set(TREE)
    finally:
        objects.rest()


def test_what_a_killed_git_left_stops_nothing(place: Place) -> None:
    place.fetched()
    clone = place.clone.git.directory
    for lock in (
        "shallow.lock",
        "config.lock",
        "HEAD.lock",
        "refs/holdfast/tip.lock",
        "packed-refs.lock",
    ):
        (clone / lock).touch()
    (clone / "packed-refs.new").touch()
    for half in ("tmp_pack_x", ".tmp-1-pack-x.pack", "multi-pack-index.lock"):
        (clone / "objects" / "pack" / half).write_bytes(b"half")
    (place.clone.git.directory.parent / ".repo.git.part").mkdir()
    place.agent()
    assert names(place.after({"web.yaml": None})) == ["db"]
    assert not [*clone.rglob("*.lock"), *clone.rglob("*tmp*"), *clone.rglob("*.new")]
    git(clone, "pack-refs", "--all")


def test_a_fetch_that_does_not_come_to_its_end_changes_nothing(place: Place) -> None:
    place.fetched()
    place.repository.commit({"web.yaml": None, "big": os.urandom(1 << 20)})
    for path in place.repository.bare.rglob("objects/??/*"):
        if path.stat().st_size > 1 << 19:
            path.chmod(0o600)
            os.truncate(path, 1000)
    desired = place.fetched()
    assert names(desired) == ["db", "web"]
    assert desired.source.error is not None
    assert desired.source.commit == place.first


def test_another_origin_has_a_record_of_its_own(place: Place) -> None:
    place.fetched()
    git(place.repository.work, "push", "-q", "origin", "HEAD:other")
    place.agent(branch="other")
    desired = place.look()
    assert desired.source.commit is None
    assert desired.source.error is None
    git(place.repository.bare, "update-ref", "-d", "refs/heads/other")
    assert place.fetched().source.error is not None
    assert not place.paths.fetched.exists(), "it was never fetched"
    git(place.repository.work, "push", "-q", "origin", "HEAD:other")
    assert names(place.fetched()) == ["db", "web"]
    assert place.paths.fetched.exists()


def test_a_repository_is_not_run(place: Place, tmp_path: Path) -> None:
    """Filters, text conversions, hooks and submodules are for those who check it out."""
    ran = tmp_path / "ran"
    evil = '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c touch% ' + str(ran) + "\n"
    attributes = "*.yaml filter=evil diff=evil text eol=crlf ident\n"
    place.repository.commit(
        {".gitmodules": evil, ".gitattributes": attributes, "web.yaml": "# $Id$\n" + vm("web")}
    )
    for hooks in (place.repository.bare / "hooks", place.clone.git.directory / "hooks"):
        hooks.mkdir(parents=True, exist_ok=True)
        for name in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
            (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
            (hooks / name).chmod(0o755)
    assert names(place.fetched()) == ["db", "web"]
    assert not ran.exists()


def test_what_git_lfs_keeps_elsewhere_is_held_and_no_guest_gets_the_pointer(place: Place) -> None:
    """Sabotage: take the pointer for the file. A VM then starts with user-data that mean nothing."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    desired = place.after({"web.yaml": vm("web", "user_data_file: data"), "data": pointer})
    assert names(desired) == ["db"]
    [problem] = desired.problems
    assert (problem.name, problem.file) == ("web", "web.yaml")
    assert "it is a pointer of Git LFS" in problem.message
    desired = place.after({"web.yaml": vm("web"), "db.yaml": pointer})
    assert names(desired) == ["web"]
    assert desired.unproven is not None


class Cut:
    """The way to a repository, which breaks off at the call that a test says."""

    def __init__(self, root: Path, place: Place) -> None:
        self._place = place
        self._calls, self._at, self.script = root / "calls", root / "calls.cut", root / "ssh"
        self.script.write_text(
            f"#!/bin/sh\necho >>{self._calls}\n[ $(wc -l <{self._calls}) = $(cat {self._at}) ] && exit 1\n"
            'for last; do :; done\neval "exec $last"\n'
        )
        self.script.chmod(0o755)
        self.at(0)

    def at(self, call: int) -> None:
        """Break off the call of that number, counted from now; 0: none."""
        self._calls.unlink(missing_ok=True)
        self._at.write_text(str(call))

    @property
    def calls(self) -> int:
        """How often it was gone since `at`."""
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0

    def agent(self) -> Clone:
        """The clone, as the next agent has it."""
        url = f"ssh://nobody@127.0.0.1{self._place.repository.bare}"
        clone = Clone(self._place.paths, origin(url, "main", None))
        clone.open()
        return clone


@pytest.fixture
def cut(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    made = Cut(tmp_path, place)
    monkeypatch.setenv("GIT_SSH", str(made.script))
    return made


def test_a_cut_while_a_clone_is_made_anew_lets_go_of_no_commit(place: Place, cut: Cut) -> None:
    """Sabotage: take whatever goes wrong for a commit that is forgotten. What follows it is then refused."""
    clone = cut.agent()
    clone.fetch()
    assert clone.standing.commit == place.first
    tip = place.repository.commit({"web.yaml": None})
    shutil.rmtree(clone.git.directory)
    cut.at(2)  # after the branch was asked for
    clone.fetch()
    assert clone.standing.error is not None
    assert not [*clone.git.directory.parent.glob(".*")], "what was begun takes no room"
    clone.fetch()
    assert (clone.standing.commit, clone.standing.refused) == (tip, None)


def test_a_cut_makes_nobody_forget_that_something_was_followed(place: Place, cut: Cut) -> None:
    """Sabotage: remember it when the server has answered. A new clone looks as if nothing had ever been followed."""
    place.repository.commit({"web.yaml": None})
    clone = cut.agent()
    clone.fetch()
    (clone.git.directory / "HEAD").write_text("?")
    clone.git.directory.with_name("record.json").unlink()
    git(place.repository.bare, "update-ref", "refs/heads/main", place.first)
    cut.at(2)  # after it was made anew
    clone = cut.agent()
    clone.fetch()
    assert clone.standing.error is not None
    cut.at(0)
    clone = cut.agent()
    clone.fetch()
    assert clone.standing.commit is None
    assert clone.standing.refused is not None


def test_a_cut_loses_no_commit_that_its_server_has_forgotten(place: Place, cut: Cut) -> None:
    """Sabotage: have what the server gives, and nothing of the old clone. What was good can be read by nobody then."""
    clone = cut.agent()
    clone.fetch()
    git(place.repository.work, "commit", "-q", "--amend", "-m", "rewritten")
    place.repository.commit({"web.yaml": None})
    git(place.repository.bare, "gc", "-q", "--prune=now")
    cut.at(2)  # after the branch was asked for
    clone.fetch()
    assert cut.calls > 2, "a new clone was made"
    assert clone.standing.refused is not None
    source = GitSource(cut.agent(), host=HOST)
    desired = source.load(NOW)
    assert (names(desired), desired.unproven) == (["db", "web"], None)


FETCHES = """\
import sys
from pathlib import Path
from agent.paths import StatePaths
from agent.source.git import command
from agent.source.git.clone import Clone
from agent.source.git.origin import origin
command.NETWORK_TIMEOUT = 2.0
clone = Clone(StatePaths(Path(sys.argv[1])), origin(sys.argv[2], "main", None))
clone.open()
clone.fetch()
"""


def test_a_git_that_outlives_its_agent_is_waited_for_and_comes_to_an_end(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let go of the lock with the agent, and two gits work in one clone."""
    place.fetched()
    script, begun = tmp_path / "ssh", tmp_path / "begun"
    script.write_text(f"#!/bin/sh\necho $$ >{begun}\nexec sleep 1000\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    url = "ssh://nobody@127.0.0.1/x"
    old, new = (
        place.paths.git / origin(one, "main", None).key for one in (place.repository.url, url)
    )
    shutil.copytree(old, new)
    agent = subprocess.Popen(
        [sys.executable, "-c", FETCHES, place.paths.root, url], cwd=Path(__file__).parents[2]
    )
    look_until(lambda: begun.exists() and begun.read_text().strip())
    agent.kill()
    agent.wait()
    clone = Clone(place.paths, origin(url, "main", None))
    clone.open()
    clone.fetch()
    assert clone.standing.commit == place.first
    assert "a git that was begun before still works in" in (clone.standing.error or "")
    monkeypatch.setenv("GIT_SSH", "/bin/false")

    def free() -> bool:
        clone.fetch()
        return "still works in" not in (clone.standing.error or "")

    look_until(free)


def test_what_a_git_leaves_behind_holds_up_no_other(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential helper may leave a daemon. Sabotage: let git inherit the lock."""
    daemon, script = tmp_path / "daemon", tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\nsleep 1000 >/dev/null 2>&1 & echo $! >>{daemon}\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    clone = Clone(place.paths, origin("ssh://nobody@127.0.0.1/x", "main", None))
    try:
        for _ in range(2):
            clone.fetch()
            assert "still works in" not in (clone.standing.error or "")
    finally:
        for pid in daemon.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def look_until(there: Callable[[], object], seconds: float = 30.0) -> None:
    waiting, end = threading.Event(), time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        waiting.wait(0.05)
