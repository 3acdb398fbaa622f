"""`approve`, `suspend`, `resume` and `reconcile` as a shell sees them, with an agent and without."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.gits import Repository, git
from tests.unit.test_commands import DOCUMENTS, Call, caller, until
from tests.unit.test_job_commands import an_agent, plant

VM = "api: holdfast/v1\nkind: vm\nname: {name}\n"
NAMES = [f"vm-{number}" for number in range(5)]


@pytest.fixture
def holdfast(tmp_path: Path) -> Call:
    plant(tmp_path)
    (tmp_path / "tree" / "all.yaml").write_text(DOCUMENTS)
    for name in NAMES:
        (tmp_path / "tree" / f"{name}.yaml").write_text(VM.format(name=name))
    return caller(tmp_path)


def there(holdfast: Call) -> set[str]:
    told = holdfast("status -o json")
    items = json.loads(told.stdout)["items"] if told.returncode == 0 else []
    return {item["name"] for item in items if item["uid"]}


def remove(root: Path) -> None:
    for name in NAMES:
        (root / "tree" / f"{name}.yaml").unlink()


def test_many_deletions_wait_for_an_approval(holdfast: Call, tmp_path: Path) -> None:
    with an_agent(tmp_path):
        until(lambda: there(holdfast) == {"web", *NAMES})
        nothing = holdfast("approve")
        assert (nothing.returncode, nothing.stderr) == (
            1,
            "holdfast: approving: nothing waits for it (`holdfast plan` says what waits)\n",
        )
        remove(tmp_path)
        until(lambda: holdfast("status").stdout.count("ApprovalNeeded") == 5)
        assert there(holdfast) == {"web", *NAMES}
        plan = holdfast("plan")
        found = re.search(r"plan ([0-9a-f]{12}): .*5 waiting", plan.stdout)
        assert found is not None, plan.stdout
        assert plan.returncode == 2
        assert f"`holdfast approve {found[1]}` lets it pass" in plan.stdout
        assert json.loads(holdfast("plan -o json").stdout)["id"] == found[1]
        for said in ("0123456789ab", found[1][:3], f"{found[1]}0"):
            wrong = holdfast(f"approve {said}")
            assert (wrong.returncode, wrong.stderr) == (
                1,
                f"holdfast: approving {said}: it is not what waits"
                f" (what waits is plan {found[1]})\n",
            )
        told = holdfast(f"approve {found[1][:11].upper()}")
        assert (told.returncode, told.stdout) == (0, "approved: the destruction of 5 VMs\n")
        until(lambda: there(holdfast) == {"web"})
        assert "Approved" in holdfast("events").stdout


def test_a_plan_beside_an_agent_says_what_that_could_not_fetch(
    holdfast: Call, tmp_path: Path
) -> None:
    """Sabotage: say `nothing to do` where nothing is known."""
    with an_agent(tmp_path, run=f"run --hypervisor memory --git {tmp_path}/nowhere.git"):
        until(lambda: "fetching" in holdfast("status").stdout)
        told = holdfast("plan")
        assert told.returncode == 1
        assert "nowhere.git" in told.stdout + told.stderr


def test_an_approval_does_not_outlast_the_wish(holdfast: Call, tmp_path: Path) -> None:
    with an_agent(tmp_path, "--max-destroy", "0"):
        until(lambda: there(holdfast) == {"web", *NAMES})
        document = tmp_path / "tree" / "vm-0.yaml"
        text = document.read_text()
        for _ in range(2):
            document.unlink()
            until(lambda: "ApprovalNeeded" in holdfast("status").stdout)
            assert holdfast("suspend").stdout == "suspended\n"
            assert holdfast("suspend").stdout == "it was suspended before\n"
            until(lambda: "Suspended" in holdfast("status").stdout)
            document.write_text(text)
            assert holdfast("resume").stdout == "resumed\n"
            until(lambda: "ApprovalNeeded" not in holdfast("status").stdout)
            assert "vm-0" in there(holdfast)
        document.unlink()
        until(lambda: "ApprovalNeeded" in holdfast("status").stdout)
        assert holdfast("approve").stdout == "approved: the destruction of 1 VM\n"
        until(lambda: "vm-0" not in there(holdfast))
        document.write_text(text)
        until(lambda: "vm-0" in there(holdfast))
        document.unlink()
        until(lambda: "ApprovalNeeded" in holdfast("status").stdout)
        assert "vm-0" in there(holdfast)


def test_what_is_said_without_an_agent_counts_for_the_next(holdfast: Call, tmp_path: Path) -> None:
    run = "run --hypervisor memory --desired tree"
    assert holdfast(f"{run} --once").returncode == 0
    remove(tmp_path)
    assert holdfast("suspend").stdout == "suspended\n"
    once = holdfast(f"{run} --once")
    assert once.returncode == 1, "nothing came to be as it is wanted"
    assert there(holdfast) == {"web", *NAMES}
    assert "but the agent is suspended (`holdfast resume`)" in holdfast("plan").stdout
    assert "suspended" in holdfast("status").stdout
    assert holdfast("resume").stdout == "resumed\n"
    assert holdfast("resume").stdout == "it was not suspended\n"
    held = json.loads(holdfast("plan -o json").stdout)
    assert {step["reason"] for step in held["steps"]} >= {"ApprovalNeeded"}
    assert holdfast("approve").stdout == "approved: the destruction of 5 VMs\n"
    assert holdfast(f"{run} --once").returncode == 0
    assert there(holdfast) == {"web"}


def test_what_plan_has_fetched_can_be_approved_without_an_agent(
    holdfast: Call, tmp_path: Path
) -> None:
    """Sabotage: approve what the last agent has seen alone. *Nothing waits for it*, right after `plan` has named it."""
    repository = Repository(tmp_path / "remote")
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    repository.commit({"all.yaml": image, "vm-0.yaml": VM.format(name="vm-0")})
    run = f"run --hypervisor memory --git {repository.bare} --branch main"
    assert holdfast(f"{run} --once").returncode == 0
    tip = repository.commit({"vm-1.yaml": VM.format(name="vm-1")}, "--amend")
    plan = holdfast("plan")
    assert plan.returncode == 1
    assert f"`holdfast approve {tip[:12]}` lets it pass" in plan.stderr
    assert holdfast(f"approve {tip[:12]}").stdout == f"approved: commit {tip[:12]}\n"
    assert "create vm-1" in holdfast("plan").stdout
    assert holdfast(f"{run} --once").returncode == 0
    assert there(holdfast) == {"web", "vm-0", "vm-1"}


def test_a_name_is_explained_with_the_commit_that_is_followed_and_why_no_later_one_is(
    holdfast: Call, tmp_path: Path
) -> None:
    """Sabotage: tell of the name alone. Who wonders why what they pushed is not seen is told that all is well."""
    repository = Repository(tmp_path / "remote")
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    repository.commit({"all.yaml": image})
    good = repository.commit({"bad.yaml": VM.format(name="bad") + "memry: 1GiB\n"})
    run = f"run --once --hypervisor memory --git {repository.bare} --branch main"
    assert holdfast(run).returncode == 1
    held = f"  held        bad.yaml:4:1 at commit {good}: unknown key `memry`"
    assert held in holdfast("explain bad").stdout
    tip = repository.commit({"bad.yaml": None}, "--amend")
    assert holdfast(run).returncode == 1
    assert f"  source      commit {tip[:12]} does not follow" in holdfast("explain web").stdout
    repository.vanish()
    assert holdfast(run).returncode == 1
    assert "  source      fetching " in holdfast("explain web").stdout


def test_a_clone_that_changes_while_it_is_read_is_said_in_a_sentence(
    holdfast: Call, tmp_path: Path
) -> None:
    """Sabotage: let what copies it end with a traceback."""
    repository = Repository(tmp_path / "remote")
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    repository.commit({"all.yaml": image})
    assert holdfast(f"run --once --hypervisor memory --git {repository.bare}").returncode == 0
    [key] = (one for one in (tmp_path / "state" / "git").iterdir() if one.is_dir())
    (key / "repo.git" / "objects" / "gone").symlink_to("/no/such/file")
    plan = holdfast("plan")
    assert (plan.returncode, plan.stderr) == (
        1,
        f"holdfast: reading what {tmp_path}/state has of {repository.bare}: it keeps changing (try again)\n",
    )
    (key / "repo.git" / "objects" / "gone").unlink()
    assert holdfast("plan").returncode in (0, 2)


def test_reconcile_looks_now_and_says_what_came_of_it(holdfast: Call, tmp_path: Path) -> None:
    alone = holdfast("reconcile")
    assert alone.returncode == 1
    repository = Repository(tmp_path / "remote")
    documents = {f"{name}.yaml": VM.format(name=name) for name in NAMES}
    image = DOCUMENTS.replace("source: tiny.qcow2", "source: https://images.example/x.qcow2")
    first = repository.commit({"all.yaml": image, **documents})
    run = f"run --hypervisor memory --git {repository.bare} --branch main --interval 3600"
    with an_agent(tmp_path, run=run):
        until(lambda: there(holdfast) == {"web", *NAMES})
        told = holdfast("reconcile")
        assert told.stdout == f"looked at {repository.bare}#main at commit {first[:12]}\n"
        second = repository.commit({"vm-0.yaml": None})
        told = holdfast("reconcile")
        assert told.stdout.endswith(f"at commit {second[:12]}\n")
        until(lambda: there(holdfast) == {"web", *NAMES[1:]})
        source = json.loads(holdfast("status -o json").stdout)["agent"]["source"]
        assert (source["kind"], source["commit"], source["error"]) == ("git", second, None)
        assert source["fetched_at"] is not None
        git(repository.bare, "update-ref", "refs/heads/main", first)
        refused = holdfast("reconcile")
        assert refused.returncode == 1
        assert f"holdfast: commit {first[:12]} does not follow {second[:12]}" in refused.stderr
        assert f"error: commit {first[:12]} does not follow" in holdfast("status").stdout
    told = holdfast(f"approve {first[:12]}")
    assert told.stdout == f"approved: commit {first[:12]}\n", "also for the next agent"
    with an_agent(tmp_path, run=run):
        until(lambda: there(holdfast) == {"web", *NAMES})
        repository.commit({"vm-1.yaml": None}, "--amend")
        assert holdfast("reconcile").returncode == 0, "it follows the first"
        third = repository.commit({"vm-2.yaml": None}, "--amend")
        assert holdfast("reconcile").returncode == 1
        assert holdfast("approve").stdout == f"approved: commit {third[:12]}\n"
        until(lambda: there(holdfast) == {"web", "vm-3", "vm-4"})
        repository.vanish()
        lost = holdfast("reconcile")
        assert (lost.returncode, lost.stdout) == (
            1,
            f"looked at {repository.bare}#main at commit {third[:12]}\n",
        )
        assert f"holdfast: fetching {repository.bare}#main: " in lost.stderr
    plan = holdfast("plan")
    assert plan.returncode == 1
    assert f"holdfast: fetching {repository.bare}#main: " in plan.stderr
