"""The agent's API on its socket: who can reach it, what it answers, and what it says where it refuses."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from agent.doing import Doing
from agent.errors import BadInput, Blocked, StateUnusable
from agent.hypervisor.memory import MemoryHost
from agent.jobs.requests import BY_HAND, Requests
from agent.jobs.store import RunStore
from agent.operator import Operator
from agent.paths import SOCKET_PATH_LIMIT, StatePaths
from agent.web import control
from agent.web.client import Unanswered, Unsure, ask, ask_of_job
from state.desired import SourceRef
from state.ids import Name, run_id
from state.ledger import Ledger
from state.records import SOURCE_KEY, LedgerUnreadable, Reader
from state.runs import Run, RunPhase
from tests.builders import STATE_ID, job, moment
from tests.waiting import eventually

TESTS = Name("tests")


def run_of(number: int = 1, phase: RunPhase = RunPhase.QUEUED) -> Run:
    spec = job()
    return Run(
        id=run_id(STATE_ID, TESTS, number),
        name=TESTS,
        number=number,
        spec=spec.canonical(),
        spec_digest=spec.digest,
        source=SourceRef("tests.yaml", 1),
        phase=phase,
        queued_at=1_700_000_000.0,
    )


@dataclass
class Served:
    """An API that answers, and what it writes to."""

    api: Path
    ledger: Ledger
    server: asyncio.Task[None]

    async def ask(self, name: str, what: Literal["rerun", "cancel"]) -> dict[str, Any]:
        """As a command asks, which runs no loop: in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            None, partial(ask_of_job, self.api, name, what)
        )


@asynccontextmanager
async def serving(root: Path, *runs: Run) -> AsyncIterator[Served]:
    paths = StatePaths(root)
    paths.root.mkdir(0o700, exist_ok=True)
    store = RunStore(paths)
    with closing(Ledger(paths.database)) as ledger, control.listening(paths.api_socket) as listener:
        with ledger.transaction() as change:
            for run in runs:
                change.put_run(run)
        for run in runs:
            (paths.runs / run.id).mkdir(parents=True, exist_ok=True)
        requests = Requests(ledger, store, moment, STATE_ID, doing=Doing())
        operator = Operator(ledger, moment, MemoryHost().backend())
        answers = control.Control(requests, operator)
        server = asyncio.ensure_future(control.serve(listener, answers))
        try:
            yield Served(paths.api_socket, ledger, server)
        finally:
            server.cancel()
            await asyncio.wait((server,))


async def test_nobody_but_this_user_can_reach_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(tmp_path / "state") as served:
            for path, mode in ((served.api, 0o600), (served.api.parent, 0o700)):
                assert stat.S_IMODE(path.stat().st_mode) == mode
            assert len(os.fsencode(served.api)) <= SOCKET_PATH_LIMIT
        assert not served.api.exists()
    finally:
        os.umask(before)


async def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    api = tmp_path / "run" / "api.sock"
    api.parent.mkdir()
    api.parent.chmod(0o755)
    with (
        pytest.raises(StateUnusable, match=r"run is not a directory of this user alone \(chmod"),
        control.listening(api),
    ):
        pass


async def test_the_socket_of_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    """Sabotage: leave what lies there. *Address already in use*, for ever."""
    api = StatePaths(tmp_path / "state").api_socket
    api.parent.mkdir(0o700, parents=True)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(os.fspath(api))
    async with serving(tmp_path / "state", run_of()) as served:
        assert (await served.ask("tests", "cancel"))["number"] == 1


async def test_who_comes_before_it_answers_waits(tmp_path: Path) -> None:
    """An agent listens before it has found its machines, and answers after."""
    api = tmp_path / "run" / "api.sock"
    with control.listening(api), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(api))


async def test_a_run_is_cancelled(tmp_path: Path) -> None:
    async with serving(tmp_path / "state", run := run_of()) as served:
        told = await served.ask("tests", "cancel")
        assert told == {"name": "tests", "run": run.id, "number": 1, "phase": "queued"}
        [recorded] = served.ledger.runs()
        assert recorded.cancel == BY_HAND


async def test_a_job_is_run_again(tmp_path: Path) -> None:
    async with serving(tmp_path / "state", run_of(phase=RunPhase.FAILED)) as served:
        told = await served.ask("tests", "rerun")
        assert (told["number"], told["phase"]) == (2, "queued")
        assert [run.number for run in served.ledger.runs()] == [1, 2]


async def test_a_refusal_comes_over_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "state", run_of()) as served:
        with pytest.raises(Blocked, match=r"its run 1 is queued \(wait for its end, or say"):
            await served.ask("tests", "rerun")
        for name in ("none", "a/../b?c#d", "ł\n"):
            with pytest.raises(
                BadInput, match=r"(?s)there is no run of a job `.*once its document"
            ):
                await served.ask(name, "cancel")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/api/v1/ping", 200, {"pid": os.getpid()}),
        ("GET", "/api/v1/pong", 404, {"error": "GET /api/v1/pong: Not Found", "hint": ""}),
        ("POST", "/api/v1/ping", 405, {"error": "POST /api/v1/ping: Method Not Allowed", "hint": ""}),
        ("GET", "/api/v1/jobs/tests/cancel", 405, None),
        ("POST", "/api/v1/jobs/none/cancel", 404, None),
        ("POST", "/api/v1/jobs/tests/cancel", 409, None),
    ],
)  # fmt: skip
async def test_every_answer_is_json(
    tmp_path: Path, method: str, path: str, status: int, said: dict[str, Any] | None
) -> None:
    async with (
        serving(tmp_path / "state", run_of(phase=RunPhase.FAILED)) as served,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(served.api))) as session,
        session.request(method, f"http://agent{path}") as response,
    ):
        told = await response.json()
        assert response.status == status
        assert told.keys() == ({"pid"} if status == 200 else {"error", "hint"})
        assert said in (None, told)


async def test_a_ledger_that_is_lost_ends_the_agent_and_is_told(tmp_path: Path) -> None:
    """Sabotage: answer, and go on. Nothing that the agent does from then on is recorded."""
    async with serving(tmp_path / "state", run_of()) as served:
        (tmp_path / "state" / "state.db").unlink()
        with pytest.raises(Blocked, match="the state database was taken away"):
            await served.ask("tests", "cancel")
        with pytest.raises(LedgerUnreadable):
            await served.server


def test_where_nobody_answers_that_is_said(tmp_path: Path) -> None:
    api = tmp_path / "api.sock"
    with pytest.raises(Unanswered, match=r"asking the agent on .*api.sock: .*try again"):
        ask_of_job(api, "tests", "cancel")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(os.fspath(api))
    with pytest.raises(Unanswered):
        ask_of_job(api, "tests", "cancel")


async def test_what_may_have_been_done_is_not_asked_again(tmp_path: Path) -> None:
    """Sabotage: call every lost answer no answer. A job is run again twice."""
    asked: list[bytes] = []

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    api = tmp_path / "api.sock"
    server = await asyncio.start_unix_server(lose, api)
    async with server:
        with pytest.raises(Unsure, match=r"\(it may be queued: see `holdfast job history tests`"):
            await asyncio.to_thread(ask_of_job, api, "tests", "rerun")
        with pytest.raises(Unanswered):
            await asyncio.to_thread(ask_of_job, api, "tests", "cancel")
    assert len(asked) == 2


async def test_an_agent_knows_when_an_answer_comes_too_late(tmp_path: Path) -> None:
    """Sabotage: do not tell it. What nobody waits for any more is done minutes later."""
    async with serving(tmp_path / "state") as served:
        with pytest.raises(Blocked, match=r"took too long to answer \(nothing was approved\)"):
            await asyncio.to_thread(partial(ask, served.api, "approve", patience=5.0))
        with pytest.raises(Blocked, match="nothing waits for it"):
            await asyncio.to_thread(ask, served.api, "approve")


async def test_what_answers_is_loaded_when_somebody_asks(tmp_path: Path) -> None:
    """Sabotage: import it before anybody has connected: an agent takes a fifth longer to import what it needs."""
    state = StatePaths(tmp_path / "state")
    (tmp_path / "tree").mkdir()
    words = [
        "--hypervisor",
        "memory",
        "--state",
        str(state.root),
        "--desired",
        str(tmp_path / "tree"),
    ]
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "run", *words, stderr=asyncio.subprocess.PIPE
    )
    try:
        await eventually(lambda: _last_read(state.database), "the agent has looked")
        assert not _has_loaded("aiohttp", agent.pid)
        told = await asyncio.to_thread(ask, state.api_socket, "reconcile")
        assert told["source"] == str(tmp_path / "tree")
        assert _has_loaded("aiohttp", agent.pid)
    finally:
        agent.terminate()
        await agent.communicate()


def _last_read(database: Path) -> str | None:
    try:
        with closing(Reader.open(database)) as reader:
            return reader.meta(SOURCE_KEY)
    except LedgerUnreadable:
        return None


def _has_loaded(package: str, pid: int) -> bool:
    """Whether one of its compiled modules is mapped."""
    return f"/{package}/" in Path(f"/proc/{pid}/maps").read_text()
