"""A status that travels back: to a ref of its own, on change, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BadUsage, HoldfastError
from agent.paths import StatePaths
from agent.publisher import Publisher
from agent.source.git.origin import origin
from agent.source.git.statusref import StatusRef, checked_ref
from agent.statusmd import page
from state.ledger import Ledger
from state.records import PUBLISHED_KEY
from tests.builders import moment
from tests.gits import Repository, git
from tests.unit.test_commands import DOCUMENTS, caller, until
from tests.unit.test_job_commands import an_agent
from tests.waiting import eventually

REF = "refs/holdfast/status/edge-1"
AT = 1_700_000_000.0


class Place:
    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.first = self.repository.commit({"README": "x"})
        self.paths = StatePaths(root / "state")
        self.paths.root.mkdir(0o700)

    def target(self, state: StatePaths | None = None) -> StatusRef:
        return StatusRef(
            state or self.paths, origin(self.repository.url, None, None), REF, "edge-1"
        )

    def said(self, file: str = "status.json") -> str:
        return git(self.repository.bare, "show", f"{REF}:{file}")

    def commits(self) -> list[str]:
        return git(self.repository.bare, "rev-list", REF).split()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_each_publication_is_a_commit_after_the_last_and_touches_no_branch(place: Place) -> None:
    target = place.target()
    first = target.publish({"status.json": b"1\n", "STATUS.md": b"one\n"}, AT)
    assert (place.said(), place.said("STATUS.md")) == ("1", "one")
    second = place.target().publish({"status.json": b"2\n"}, AT + 60)
    assert place.commits() == [second, first]
    assert git(place.repository.bare, "ls-tree", "--name-only", REF) == "status.json"
    assert git(place.repository.bare, "for-each-ref", "--format=%(refname)") == (
        f"refs/heads/main\n{REF}"
    )
    assert git(place.repository.bare, "rev-parse", "main") == place.first
    who = git(place.repository.bare, "log", "-1", "--format=%an %ae %at %s", REF)
    assert who == f"holdfast holdfast@edge-1 {int(AT) + 60} Status of edge-1"


def test_what_is_there_already_is_not_pushed_again(place: Place) -> None:
    """Sabotage: push whatever is said. Each start of an agent is a commit then."""
    first = place.target().publish({"status.json": b"1\n"}, AT)
    assert place.target().publish({"status.json": b"1\n"}, AT + 60) == first
    assert place.commits() == [first]
    git(place.repository.bare, "update-ref", "-d", REF)
    second = place.target().publish({"status.json": b"1\n"}, AT + 120)
    assert place.commits() == [second, first], "somebody has deleted it"
    other = place.target().publish({"status.json": b"2\n"}, AT + 180)
    back = place.target().publish({"status.json": b"1\n"}, AT + 240)
    assert place.commits() == [back, other, second, first]


def test_what_another_state_has_pushed_is_followed(place: Place, tmp_path: Path) -> None:
    first = place.target().publish({"status.json": b"1\n"}, AT)
    other = StatePaths(tmp_path / "other")
    other.root.mkdir()
    second = place.target(other).publish({"status.json": b"2\n"}, AT)
    third = place.target().publish({"status.json": b"3\n"}, AT)
    assert place.commits() == [third, second, first]


@pytest.mark.parametrize(
    ("hook", "hidden", "why"),
    [
        ("echo not you >&2; exit 1", "refs/x", "pre-receive hook declined (it says: not you)"),
        ("exit 1", "refs/x", "pre-receive hook declined"),
        ("exit 0", "refs/holdfast", "deny updating a hidden ref"),
    ],
)  # fmt: skip
def test_a_push_that_is_refused_is_told_with_the_reason(
    place: Place, hook: str, hidden: str, why: str
) -> None:
    """Sabotage: tell the last line of what git says, which is that it failed."""
    script = place.repository.bare / "hooks" / "pre-receive"
    script.write_text(f"#!/bin/sh\n{hook}\n")
    script.chmod(0o755)
    git(place.repository.bare, "config", "receive.hideRefs", hidden)
    with pytest.raises(HoldfastError) as refused:
        place.target().publish({"status.json": b"1\n"}, AT)
    assert str(refused.value) == f"it was refused: {why}"


@pytest.mark.parametrize("left", ["refs/holdfast/last.lock", "HEAD", "objects"])
def test_what_a_killed_agent_left_there_stops_nothing(place: Place, left: str) -> None:
    """Sabotage: make the repository once, and never look at it again."""
    first = place.target().publish({"status.json": b"1\n"}, AT)
    path = place.paths.git / "status.git" / left
    if path.name.endswith(".lock"):
        path.touch()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    second = place.target().publish({"status.json": b"2\n"}, AT)
    assert place.commits() == [second, first]


def test_a_repository_of_ours_that_lost_its_objects_is_begun_anew_with_what_the_server_has(
    place: Place,
) -> None:
    first = place.target().publish({"status.json": b"1\n"}, AT)
    objects = place.paths.git / "status.git" / "objects"
    shutil.rmtree(objects)
    objects.mkdir()
    with pytest.raises(HoldfastError):
        place.target().publish({"status.json": b"2\n"}, AT)
    second = place.target().publish({"status.json": b"2\n"}, AT)
    assert place.commits() == [second, first]


@pytest.mark.parametrize(
    "ref",
    [
        "refs/heads/main",
        "refs/HEADS/main",
        "refs/tags/x/y",
        "refs/remotes/origin/main",
        "refs/notes/commits",
        "refs/replace/x",
        "refs/stash/x",
        "refs/original/x",
        "refs/bisect/x",
        "refs/worktree/x",
        "refs/for/main",
        "refs/drafts/main",
        "refs/changes/01/1/1",
        "refs/meta/config",
        "refs/pull/1/head",
        "refs/pulls/1/head",
        "refs/merge-requests/1/head",
        "main",
        "refs/holdfast",
        "refs/a/..",
        "-x",
        "refs/a b/c",
    ],
)
def test_a_ref_that_people_use_is_refused(ref: str) -> None:
    with pytest.raises(BadUsage, match="no ref for a status"):
        checked_ref(ref)


class Told:
    """A status that a test changes."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {
            "agent": {"pid": 1, "source": None, "status_ref": None, "suspended_at": None},
            "items": [], "held": [], "errors": [], "waiting": [],
        }  # fmt: skip

        self.asked = 0
        self.threads: set[int] = set()

    def __call__(self) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        self.asked += 1
        return dict(json.loads(json.dumps(self.value)))


@asynccontextmanager
async def publishing(place: Place, told: Told) -> AsyncIterator[tuple[Publisher, Ledger]]:
    ledger = Ledger(place.paths.database)
    publisher = Publisher(
        place.target(), ledger, moment, told, lambda status: page(status, "edge-1"), every=0.05
    )
    task = asyncio.ensure_future(publisher.run())
    try:
        yield publisher, ledger
    finally:
        task.cancel()
        await asyncio.wait((task,))
        ledger.close()


def recorded(ledger: Ledger) -> dict[str, Any]:
    return dict(json.loads(ledger.meta(PUBLISHED_KEY) or "{}"))


async def test_only_a_change_is_published(place: Place) -> None:
    told = Told()
    told.value["agent"]["source"] = {"location": "x", "commit": None, "fetched_at": "0"}
    async with publishing(place, told) as (publisher, ledger):
        publisher.look()
        await eventually(lambda: bool(recorded(ledger).get("commit")), "it is published")
        first = recorded(ledger)["commit"]
        for fetched in ("1", "2", "3"):
            told.value["agent"]["source"] = {"location": "x", "commit": None, "fetched_at": fetched}
            told.asked = 0
            publisher.look()
            await eventually(lambda: told.asked > 0, "it is looked at")
        told.value["items"] = [
            {"name": "web", "kind": "vm", "phase": "running", "ready": True, "reason": "Ready", "message": "well"}
        ]  # fmt: skip
        publisher.look()
        await eventually(lambda: recorded(ledger)["commit"] != first, "the change is published")
    assert len(place.commits()) == 2, "a fetch alone is no change"
    assert json.loads(place.said())["items"] == told.value["items"]
    assert "| web | vm | running | yes | well |" in place.said("STATUS.md")


async def test_the_next_agent_says_nothing_that_was_said(place: Place) -> None:
    """Sabotage: tell which process tells it."""
    told = Told()
    for pid in (1, 2):
        told.value["agent"]["pid"] = pid
        async with publishing(place, told) as (publisher, ledger):
            await publisher.publish()
            commit = recorded(ledger)["commit"]
            assert place.commits() == [commit]
    assert json.loads(place.said())["agent"]["pid"] is None


async def test_the_loop_goes_on_while_a_status_is_written(place: Place) -> None:
    """Sabotage: write it there. With three thousand machines nothing else happens for most of a second."""
    told = Told()
    shown: set[int] = set()

    def page_of(status: dict[str, Any]) -> str:
        shown.add(threading.get_ident())
        return page(status, "edge-1")

    with closing(Ledger(place.paths.database)) as ledger:
        await Publisher(place.target(), ledger, moment, told, page_of).publish()
    assert told.threads == shown
    assert threading.get_ident() not in shown


async def test_a_push_that_fails_is_told_and_tried_again(place: Place) -> None:
    told = Told()
    aside = place.repository.bare.with_name("aside")
    place.repository.bare.rename(aside)
    async with publishing(place, told) as (publisher, ledger):
        publisher.look()
        await eventually(lambda: bool(recorded(ledger).get("error")), "it is told")
        assert recorded(ledger)["error"].startswith(f"pushing the status to {REF}: ")
        aside.rename(place.repository.bare)
        await eventually(lambda: recorded(ledger)["error"] is None, "it is pushed")
        events = [event.reason for event in ledger.reader.events()]
        assert events == ["StatusNotPushed"]
    assert len(place.commits()) == 1


def test_a_page_shows_what_is_said_as_text() -> None:
    told = Told().value
    told["errors"] = [
        {"name": None, "file": None, "line": None, "column": None,
         "message": "<script>alert(1)</script> | [x](javascript:y) `z` **b**\n# h www.x.example"}
    ]  # fmt: skip
    assert page(told, "h").splitlines()[-1] == (
        r"- error\: \<script\>alert\(1\)\</script\> \| \[x\]\(javascript\:y\) \`z\` \*\*b\*\* \# h www\.x.example"
    )


def said_of(place: Place, name: str) -> tuple[str, bool] | None:
    """Phase and readiness of a name, as the ref says."""
    items = json.loads(place.said())["items"]
    return next(((one["phase"], one["ready"]) for one in items if one["name"] == name), None)


def test_an_agent_that_leaves_when_all_is_done_has_told_so(tmp_path: Path) -> None:
    """Sabotage: leave the last word to the next push, which never comes."""
    place = Place(tmp_path)
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    place.repository.commit({"all.yaml": image})
    run = f"run --once --hypervisor memory --git {place.repository.bare} --branch main"
    holdfast = caller(tmp_path)
    assert holdfast(f"{run} --host edge-1 --status-ref {REF}").returncode == 0
    assert said_of(place, "web") == ("running", True)


def test_an_agent_tells_the_truth_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    commit = place.repository.commit(
        {"all.yaml": image, "bad.yaml": "api: holdfast/v1\nkind: vm\nname: bad\n x"}
    )
    run = f"run --hypervisor memory --git {place.repository.bare} --branch main --host edge-1"
    holdfast = caller(tmp_path)
    with an_agent(tmp_path, "--status-ref", REF, run=run):
        until(lambda: git(place.repository.bare, "for-each-ref", REF))
        found = json.loads(place.said())
        assert found["agent"]["source"]["commit"] == commit
        assert "bad.yaml" in {one["file"] for one in found["errors"]}
        until(
            lambda: (
                "error"
                in (json.loads(holdfast("status -o json").stdout)["agent"]["status_ref"] or {})
            )
        )
    assert git(place.repository.bare, "rev-parse", "main") == commit
    refused = holdfast(f"run --git {place.repository.bare} --status-ref refs/heads/main")
    assert refused.returncode == 64
