"""The whole agent over a real git repository, on a host in memory: what commits, servers and disks do to machines."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.errors import Blocked
from agent.fetcher import Fetcher
from agent.paths import StatePaths
from agent.source.git.clone import Clone
from agent.source.git.origin import origin
from agent.source.git.source import GitSource
from agent.source.git.trust import Signers
from state.ids import Name, Uid
from tests.gits import Repository, git
from tests.memory.world import Lab
from tests.mounting import mount, mounted
from tests.trees import HOST, MAP, vm
from tests.unit.test_git_trust import Somebody, listed
from tests.waiting import eventually

TREE = {"images.yaml": MAP, "web.yaml": vm("web"), "db.yaml": vm("db")}
INTERVAL = 0.2


class Node:
    """A repository, and agents of one state directory that follow it."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.paths = StatePaths(root / "state")
        self.paths.root.mkdir()
        self.lab = Lab(self.paths.database)
        self.url = self.repository.url
        self.trust: Signers | None = None
        self.interval = INTERVAL

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lab]:
        """An agent that asks the server again and again."""
        clone = Clone(self.paths, origin(self.url, "main", None), self.trust)
        source = GitSource(clone, host=HOST)
        self.lab.source = source  # type: ignore[assignment]
        async with self.lab.running() as lab:
            assert lab.agent is not None
            fetcher = Fetcher(source, lab.agent.wake, self.interval)
            lab.agent.operator.repository = fetcher
            task = asyncio.ensure_future(fetcher.run())
            try:
                yield lab
            finally:
                task.cancel()
                await asyncio.wait((task,))

    @property
    def names(self) -> set[str]:
        return {str(name) for name in self.lab.uids()}

    def uid(self, name: str) -> Uid:
        return self.lab.uids()[Name(name)]

    async def runs(self, *names: str) -> None:
        await eventually(lambda: self.names == set(names), f"{names} run")

    async def told(self, part: str) -> None:
        """Wait until a pass says something of its source."""

        def said() -> bool:
            source = self.lab.passes[-1].desired.source
            return part in f"{source.error} {source.refused}"

        await eventually(lambda: bool(self.lab.passes) and said(), part)

    async def seen(self, commit: str) -> None:
        """Wait until a pass was made of that commit."""
        passes = self.lab.passes
        await eventually(
            lambda: bool(passes) and passes[-1].desired.source.commit == commit, commit
        )

    async def woken_by(self, reason: str) -> None:
        """Wait until a pass was made for that reason, too."""
        passes = self.lab.passes
        await eventually(lambda: any(reason in one.reasons for one in passes), reason)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.repository.commit(TREE)
    return made


async def test_commits_create_replace_and_destroy(node: Node) -> None:
    async with node.running():
        await node.runs("web", "db")
        web, db = node.uid("web"), node.uid("db")
        node.repository.commit({"web.yaml": vm("web", "memory: 1GiB"), "new.yaml": vm("new")})
        await node.runs("web", "db", "new")
        await eventually(lambda: node.uid("web") != web, "web is replaced")
        assert node.uid("db") == db
        node.repository.commit({"web.yaml": None})
        await node.runs("db", "new")


@pytest.mark.parametrize("broken", ["web.yaml", "moved.yaml", "double.yaml", "new.yaml"])
async def test_what_is_broken_holds_what_it_might_own_and_the_rest_follows(
    node: Node, broken: str
) -> None:
    async with node.running():
        await node.runs("web", "db")
        web, db = node.uid("web"), node.uid("db")
        changes: dict[str, str | None] = {"db.yaml": vm("db", "cpus: 2")}
        match broken:
            case "web.yaml":
                changes["web.yaml"] = vm("web", "cpus: lots")
            case "moved.yaml":
                changes |= {"web.yaml": None, "moved.yaml": "name: web\nkind: [\n"}
            case "double.yaml":
                changes["double.yaml"] = vm("web", "cpus: 4")
            case _:
                changes |= {"web.yaml": None, "new.yaml": "what: [\n"}
        await node.seen(node.repository.commit(changes))
        await eventually(lambda: node.uid("db") != db, "db follows")
        assert node.uid("web") == web
        problems = node.lab.passes[-1].desired.problems
        assert any(problem.file == broken for problem in problems)
        node.repository.commit(
            {"web.yaml": vm("web"), **({broken: None} if broken != "web.yaml" else {})}
        )
        await eventually(lambda: not node.lab.passes[-1].desired.problems, "it is mended")
        assert node.uid("web") == web


@pytest.mark.parametrize("how", ["emptied", "no branch", "no repository", "rewritten"])
async def test_nothing_is_lost_by_what_a_server_does(node: Node, how: str) -> None:
    async with node.running():
        await node.runs("web", "db")
        uids = node.lab.uids()
        bare, aside = node.repository.bare, node.repository.bare.with_name("aside")
        head = node.repository.head
        match how:
            case "emptied":
                await node.seen(node.repository.commit(dict.fromkeys(TREE)))
                unproven = node.lab.passes[-1].desired.unproven
                assert unproven is not None
                assert "no documents" in unproven
            case "no branch":
                git(bare, "update-ref", "-d", "refs/heads/main")
                await node.told("there is no branch main in it")
            case "no repository":
                bare.rename(aside)
                await node.told("fetching file://")
            case _:
                node.repository.commit({"web.yaml": None}, "--amend")
                await node.told("does not follow")
        passes = len(node.lab.passes)
        node.lab.look()
        await eventually(lambda: len(node.lab.passes) > passes, "another look")
        assert node.lab.uids() == uids
        if aside.exists():
            aside.rename(bare)
        if how != "emptied":
            git(node.repository.work, "reset", "-q", "--hard", head)
        node.repository.commit({**TREE, "third.yaml": vm("third")})
        await node.runs("web", "db", "third")


async def test_another_repository_in_its_place_waits_for_an_approval(
    node: Node, tmp_path: Path
) -> None:
    async with node.running() as lab:
        await node.runs("web", "db")
        node.repository.vanish()
        other = Repository(tmp_path / "other")
        tip = other.commit({"images.yaml": MAP, "other.yaml": vm("other")})
        other.bare.rename(node.repository.bare)
        await node.told(f"commit {tip[:12]} does not follow")
        assert node.names == {"web", "db"}
        assert lab.agent is not None
        assert await lab.agent.operator.approve(tip[:12]) == f"commit {tip[:12]}"
        await node.runs("other")


async def test_where_two_things_wait_each_is_approved_by_its_id(node: Node) -> None:
    """Sabotage: let an approval wake nobody. Nothing else would do so for an hour here."""
    names = [f"vm-{number}" for number in range(8)]
    many = {"images.yaml": MAP, **{f"{name}.yaml": vm(name) for name in names}}
    node.repository.commit({**dict.fromkeys(TREE), **many})
    node.interval = 3600.0
    async with node.running() as lab:
        await node.runs(*names)
        assert lab.agent is not None
        operator = lab.agent.operator
        assert operator.repository is not None
        kept = node.repository.commit(dict.fromkeys([f"{name}.yaml" for name in names[1:]]))
        operator.repository.soon()
        await eventually(lambda: lab.passes[-1].plan.fence is not None, "a plan waits")
        fence = lab.passes[-1].plan.fence
        assert fence is not None
        tip = node.repository.commit({"README": "another"}, "--amend")
        operator.repository.soon()
        await node.told(f"commit {tip[:12]} does not follow {kept[:12]}")
        with pytest.raises(Blocked, match="approving: two things wait") as both:
            await operator.approve(None)
        assert both.value.hint == f"what waits is plan {fence.id} and commit {tip[:12]}"
        assert node.names == set(names)
        lab.passes.clear()
        assert await operator.approve(tip[:4]) == f"commit {tip[:12]}"
        await node.seen(tip)
        await node.woken_by("an approval")
        lab.passes.clear()
        assert await operator.approve(None) == "the destruction of 7 VMs"
        await node.woken_by("an approval")
        await node.runs(names[0])
        await eventually(lambda: lab.passes[-1].plan.fence is None, "it waits no more")
        with pytest.raises(Blocked, match="approving: nothing waits for it"):
            await operator.approve(None)


async def test_a_word_of_a_person_is_heard_at_once(node: Node) -> None:
    async with node.running() as lab:
        await node.runs("web", "db")
        assert lab.agent is not None
        operator = lab.agent.operator
        for say, reason in (
            (operator.suspend, "it is suspended"),
            (operator.resume, "it is resumed"),
        ):
            lab.passes.clear()
            assert await say()
            await node.woken_by(reason)


async def test_unsigned_commits_and_those_of_strangers_change_nothing(
    node: Node, tmp_path: Path
) -> None:
    alice, mallory = Somebody(tmp_path, "alice"), Somebody(tmp_path, "mallory")
    alice.signs(node.repository)
    good = node.repository.commit({}, "-S")
    node.trust = listed(tmp_path, alice.line())
    async with node.running():
        await node.runs("web", "db")
        bad = node.repository.commit_only({"web.yaml": None})
        node.repository.commit({"third.yaml": vm("third")}, "-S")
        await node.told(f"commit {bad[:12]} is not signed")
        git(node.repository.work, "reset", "-q", "--hard", good)
        mallory.signs(node.repository)
        bad = node.repository.commit({"web.yaml": None}, "-S")
        await node.told(f"commit {bad[:12]} is signed by somebody who is not listed")
        assert node.names == {"web", "db"}
        git(node.repository.work, "reset", "-q", "--hard", good)
        alice.signs(node.repository)
        node.repository.commit({"third.yaml": vm("third")}, "-S")
        await node.runs("web", "db", "third")


async def test_a_server_that_is_away_at_the_start_is_waited_for(node: Node) -> None:
    aside = node.repository.bare.with_name("aside")
    node.repository.bare.rename(aside)
    async with node.running():
        await node.told("fetching file://")
        assert node.names == set()
        aside.rename(node.repository.bare)
        await node.runs("web", "db")


async def test_a_host_that_reboots_without_the_server_brings_everything_back(node: Node) -> None:
    async with node.running():
        await node.runs("web", "db")
        uids = node.lab.uids()
    node.repository.vanish()
    node.lab.host.reboot()
    assert node.names == set()
    async with node.running():
        await node.runs("web", "db")
        assert node.lab.uids() == uids
        await node.told("fetching file://")


async def test_a_vm_keeps_the_commit_that_brought_its_document(node: Node) -> None:
    """Sabotage: take the commit of whoever read it last. A restart then names one that changed nothing of it."""

    def commits() -> dict[str, str | None]:
        return {name: node.lab.instance(name).source.commit for name in ("web", "db")}

    first = node.repository.head
    async with node.running():
        await node.runs("web", "db")
        other = node.repository.commit({"db.yaml": vm("db", "cpus: 2")})
        await eventually(lambda: commits() == {"web": first, "db": other}, "db is of the second")
        tip = node.repository.commit({"README": "nothing of a vm"})
        await node.seen(tip)
    node.lab.host.reboot()
    async with node.running():
        await node.runs("web", "db")
        await eventually(
            lambda: all(step.action == "keep" for step in node.lab.passes[-1].plan.steps), "at rest"
        )
        assert commits() == {"web": first, "db": other}


async def test_a_server_that_says_nothing_holds_up_nobody(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node.running():
        await node.runs("web", "db")
        web = node.uid("web")
    script = node.paths.root.parent / "ssh"
    script.write_text("#!/bin/sh\nexec sleep 1000\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    # The same clone: only the way to the server has changed.
    old = node.paths.git / origin(node.url, "main", None).key
    node.url = "ssh://nobody@127.0.0.1/x"
    shutil.copytree(old, node.paths.git / origin(node.url, "main", None).key)
    async with node.running() as lab:
        await node.runs("web", "db")
        lab.host.kill(web)
        await eventually(lambda: web in lab.uids().values(), "it is started again")
        assert lab.passes[-1].desired.source.pending
        await eventually(lambda: bool(children()), "it is asked")
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        await node.told("fetching ssh://nobody@127.0.0.1/x")


def children() -> list[int]:
    """Those that this process has begun by way of git, and that only sleep."""
    told = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}
    ours = []
    for pid, _, words in rows:
        at = int(pid)
        while at in parents and at != os.getpid():
            at = parents[at]
        if at == os.getpid() and words == "sleep 1000":
            ours.append(int(pid))
    return ours


async def test_a_fetch_for_which_there_is_no_room_changes_nothing(
    node: Node, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "2m"):
        node.paths.git.symlink_to(small)
        async with node.running():
            await node.runs("web", "db")
            node.repository.commit({"big": os.urandom(3 << 20), "web.yaml": None})
            await node.told("no room for it")
            assert node.names == {"web", "db"}
            await eventually(lambda: not list(small.rglob("tmp_*")), "its disk is had back")
            mount(small, "remount,size=40m")
            await node.runs("db")
