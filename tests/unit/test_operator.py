"""What a person says to a running agent: when it counts, and which pass is the answer to it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import Blocked
from agent.fetcher import Fetcher
from agent.hypervisor.memory import MemoryHost
from agent.operator import Operator
from agent.paths import StatePaths
from agent.planned import Plan
from agent.source.git.clone import Clone
from agent.source.git.origin import Origin, origin
from agent.source.git.source import GitSource
from agent.wake import Wake
from state.desired import Desired
from state.ledger import Ledger
from tests.builders import desired, moment
from tests.gits import Repository
from tests.trees import HOST, MAP, vm
from tests.waiting import eventually

NEVER = 3600.0
HANGS = """\
#!/bin/sh
[ -e {root}/silent ] && echo $$ >{root}/asked && exec sleep 1000
for last; do :; done
eval "exec $last"
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state.db")
    yield opened
    opened.close()


@dataclass
class Served:
    """A repository whose server falls silent while there is a file `silent`, and who follows it."""

    root: Path
    repository: Repository
    paths: StatePaths
    source: GitSource
    operator: Operator

    def another(self) -> Clone:
        """The same clone, as the next agent has it."""
        clone = Clone(self.paths, self.where)
        clone.open()
        return clone

    @property
    def where(self) -> Origin:
        return origin(f"ssh://nobody@127.0.0.1{self.repository.bare}", "main", None)

    async def rewritten(self) -> str:
        """A commit that is refused until it is approved."""
        tip = self.repository.commit({"db.yaml": vm("db")}, "--amend")
        await self.asked()
        assert self.source.approvable == tip
        return tip

    async def asked(self) -> None:
        assert self.operator.repository is not None
        await self.operator.repository.ask()

    async def hangs(self) -> None:
        """Have a fetch under way that gets no answer."""
        (self.root / "silent").touch()
        assert self.operator.repository is not None
        self.operator.repository.soon()
        await eventually(self._asked, "the server is asked")

    async def ends(self) -> None:
        (self.root / "silent").unlink()
        os.kill(int((self.root / "asked").read_text()), signal.SIGKILL)

    def _asked(self) -> bool:
        asked = self.root / "asked"
        return asked.exists() and asked.read_text().strip() != ""


@asynccontextmanager
async def served(
    root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    repository = Repository(root)
    repository.commit({"images.yaml": MAP, "web.yaml": vm("web")})
    script = root / "ssh"
    script.write_text(HANGS.format(root=root))
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(script))
    paths = StatePaths(root / "state")
    paths.root.mkdir()
    where = origin(f"ssh://nobody@127.0.0.1{repository.bare}", "main", None)
    source = GitSource(Clone(paths, where), host=HOST)
    fetcher = Fetcher(source, Wake(), NEVER)
    operator = Operator(ledger, moment, MemoryHost().backend(), repository=fetcher)
    task = asyncio.ensure_future(fetcher.run())
    try:
        await fetcher.ask()
        yield Served(root, repository, paths, source, operator)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_an_approval_is_answered_and_done_while_a_server_says_nothing(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: let it queue behind the fetch."""
    async with served(tmp_path, ledger, monkeypatch) as place:
        tip = await place.rewritten()
        await place.hangs()
        assert await place.operator.approve(tip[:12]) == f"commit {tip[:12]}"
        assert place.another().standing.approved == tip
        await place.ends()
        await eventually(lambda: place.source.load(0.0).source.commit == tip, "it is followed")
        assert [event.reason for event in ledger.reader.events()] == ["Approved"]


async def test_an_approval_that_comes_too_late_for_whoever_asked_is_none(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: do it all the same."""
    async with served(tmp_path, ledger, monkeypatch) as place:
        tip = await place.rewritten()
        with pytest.raises(Blocked, match="took too long to answer"):
            await place.operator.approve(tip, asyncio.get_running_loop().time() - 0.001)
        await place.asked()
        assert place.source.load(0.0).source.commit != tip
        assert ledger.reader.events() == []


async def test_the_answer_is_a_pass_that_began_after_the_question(ledger: Ledger) -> None:
    """Sabotage: take the next pass that ends."""
    operator = Operator(ledger, moment, MemoryHost().backend())
    before, after = desired(), desired()
    answers: list[Desired] = []

    async def asks() -> None:
        answers.append(await operator.reconcile())

    async with asyncio.TaskGroup() as group:
        group.create_task(asks())
        await asyncio.sleep(0)
        operator.began()
        group.create_task(asks())
        await asyncio.sleep(0)
        operator.passed(Plan(()), before)
        await eventually(lambda: bool(answers), "the first is answered")
        assert answers == [before]
        operator.began()  # breaks off, and is none
        operator.began()
        operator.passed(Plan(()), after)
    assert len(answers) == 2
    assert answers[1] is after
