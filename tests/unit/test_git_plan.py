"""`plan` over a repository, with an agent and without: what the next agent would do, and nothing of that is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gits import Repository
from tests.unit.test_commands import DOCUMENTS, Call, caller, until
from tests.unit.test_job_commands import an_agent

VM = "api: holdfast/v1\nkind: vm\nname: {name}\n"
IMAGE = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "remote")
    made.commit({"all.yaml": IMAGE})
    return made


def whole(root: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def planned(holdfast: Call, root: Path) -> tuple[int, list[str], str | None]:
    """Exit status, what would be done to whom, and what is wrong; the plan leaves no file anywhere."""
    (root / "tmp").mkdir(exist_ok=True)
    before = whole(root / "state" / "git")
    told = holdfast("plan -o json", env={"TMPDIR": str(root / "tmp")})
    assert whole(root / "state" / "git") == before
    assert whole(root / "tmp") == {}
    said = json.loads(told.stdout)
    does = [f"{one['action']} {one['name']}" for one in said["steps"] if one["action"] != "keep"]
    assert told.stderr == ""
    return told.returncode, does, said["error"]


def followed(holdfast: Call) -> str | None:
    """The commit that the agent says it follows."""
    told = holdfast("status -o json")
    source = json.loads(told.stdout)["agent"]["source"] if told.returncode == 0 else None
    return source["commit"] if source else None


def test_a_plan_asks_the_server_from_where_the_last_agent_stood(
    repository: Repository, tmp_path: Path
) -> None:
    """Sabotage: ask into an empty clone, to which nothing is a rewritten history; or into that of the next agent."""
    holdfast = caller(tmp_path)
    run = f"run --hypervisor memory --git {repository.bare} --branch main"
    assert holdfast(f"{run} --once").returncode == 0
    status, does, wrong = planned(holdfast, tmp_path)
    assert (status, wrong) == (2, None), "the machines in memory have gone with their agent"
    assert [one for one in does if "web" not in one] == []
    repository.commit({"new.yaml": VM.format(name="new")})
    status, does, wrong = planned(holdfast, tmp_path)
    assert (status, wrong) == (2, None)
    assert "create new" in does
    tip = repository.commit({"other.yaml": VM.format(name="other")}, "--amend")
    assert "create other" in planned(holdfast, tmp_path)[1], "nobody has followed the other one"
    assert holdfast(f"{run} --once").returncode == 0
    amended = repository.commit({"other.yaml": None}, "--amend")
    status, does, wrong = planned(holdfast, tmp_path)
    assert status == 1
    assert (wrong or "").startswith(f"commit {amended[:12]} does not follow {tip[:12]}")
    assert "destroy other" not in does
    told = holdfast("plan")
    assert told.returncode == 1
    assert f"holdfast: commit {amended[:12]} does not follow {tip[:12]}" in told.stderr


def test_a_plan_beside_an_agent_says_what_that_refused(
    repository: Repository, tmp_path: Path
) -> None:
    holdfast = caller(tmp_path)
    run = f"run --hypervisor memory --git {repository.bare} --branch main --interval 1"
    with an_agent(tmp_path, run=run):
        until(lambda: followed(holdfast) == repository.head)
        amended = repository.commit({"new.yaml": VM.format(name="new")}, "--amend")
        until(lambda: "does not follow" in holdfast("status").stdout)
        told = holdfast("plan")
        assert told.returncode == 1
        assert f"holdfast: commit {amended[:12]} does not follow" in told.stderr
        assert "create new" not in told.stdout
        followed_now = (followed(holdfast) or "")[:12]
        assert f"planned at commit {followed_now}, as the agent last fetched it" in told.stderr
