"""`plan --from --to` as a pull request's check calls it: two revisions of a repository, and nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.gits import Repository, git
from tests.trees import MAP, job, vm
from tests.unit.test_commands import Call, caller

TREE = {
    "images.yaml": MAP, "web.yaml": vm("web"), "db.yaml": vm("db", "power: stopped"),
    "tests.yaml": job("tests"), "asleep.yaml": vm("asleep", "power: paused"),
}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path)
    repository.commit(TREE)
    git(repository.work, "checkout", "-q", "-b", "change")
    return repository


@pytest.fixture
def holdfast(tmp_path: Path) -> Call:
    call = caller(tmp_path)

    def without_qemu(words: str) -> subprocess.CompletedProcess[str]:
        told = call(words, env={"PATH": "/usr/bin:/bin", "HOLDFAST_QEMU": "/nowhere"})
        assert not (tmp_path / "state").exists()
        return told

    return without_qemu


def test_the_same_revision_changes_nothing(holdfast: Call, work: Repository) -> None:
    told = holdfast("plan --git work --from main --to change")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.endswith("nothing to do\n")


def test_what_a_merge_would_do_is_said_with_what_forces_it(
    holdfast: Call, work: Repository
) -> None:
    work.commit_only(
        {
            "web.yaml": vm("web", "memory: 1GiB"),
            "db.yaml": None,
            "asleep.yaml": vm("asleep"),
            "new/api.yaml": vm("api"),
            "tests.yaml": job("tests", script="script: make check"),
        }
    )
    told = holdfast("plan --git work --from main")
    assert told.returncode == 2
    lines = told.stdout.splitlines()
    assert lines[:-1] == [
        "- destroy db with its disk: no document names it any more  [db.yaml:1]",
        "± replace web with its disk: memory 768MiB -> 1GiB  [web.yaml:1]",
        "~ update asleep: power is running  [asleep.yaml:1]",
        "+ create api: no instance of it is there  [new/api.yaml:1]",
        "+ run tests: attempt 1 of run 2  [tests.yaml:1]",
    ]
    found = json.loads(holdfast("plan --git work/.git --from main --to change -o json").stdout)
    assert [step["action"] for step in found["steps"]] == [
        "destroy", "replace", "update", "create", "run"
    ]  # fmt: skip
    assert found["steps"][1]["fields"] == ["memory"]
    back = holdfast("plan --git work --from change --to main")
    assert "- destroy api with its disk" in back.stdout


@pytest.mark.parametrize("name", ["refs/heads/-x", "refs/heads/--all", "refs/tags/ünï"])
def test_what_looks_like_an_option_is_a_revision_where_it_is_one(
    holdfast: Call, work: Repository, name: str
) -> None:
    """Sabotage: have git take it for an option of its own."""
    git(work.work, "update-ref", name, "HEAD")
    work.commit_only({"web.yaml": None})
    told = holdfast(f"plan --git work --from={name.split('/')[2]}")
    assert (told.returncode, told.stderr) == (2, "")
    assert "- destroy web with its disk" in told.stdout


def test_what_is_replaced_for_those_who_look_is_not_for_a_host(
    holdfast: Call, work: Repository
) -> None:
    """git-replace(1) is of one repository and does not come with a branch. Sabotage: let git look through it."""
    work.commit_only({"web.yaml": None})
    git(work.work, "replace", "main", "change")
    told = holdfast("plan --git work --from main --to change")
    assert (told.returncode, told.stderr) == (2, "")
    assert "- destroy web with its disk" in told.stdout


def test_all_jobs_of_a_merge_are_said_to_run(
    holdfast: Call, work: Repository, tmp_path: Path
) -> None:
    """Sabotage: plan for one host at one moment, on which a few of them wait for each other."""
    jobs = {f"jobs/{number}.yaml": job(f"job-{number}") for number in range(9)}
    work.commit_only(jobs)
    (tmp_path / "link").symlink_to(work.work / "jobs")
    told = holdfast("plan --git link --from main")
    assert told.returncode == 2
    assert told.stdout.count("attempt 1 of run 1") == 9


def test_a_directory_of_the_repository_for_one_host(holdfast: Call, work: Repository) -> None:
    work.commit_only({"sites/images.yaml": MAP, "sites/a.yaml": vm("a", "hosts: [edge-*]")})
    of = "plan --git work --from change~1 --to change --path sites"
    told = holdfast(f"{of} --host edge-7")
    assert "+ create a: " in told.stdout
    assert holdfast(f"{of} --host other").returncode == 0


def test_a_broken_document_is_an_error_that_names_its_place(
    holdfast: Call, work: Repository
) -> None:
    work.commit_only({"web.yaml": vm("web", "memry: 1GiB")})
    told = holdfast("plan --git work --from main")
    assert told.returncode == 1
    assert "! hold web: web.yaml:4:1: unknown key `memry`" in told.stdout


def test_many_deletions_are_seen_to_need_an_approval(holdfast: Call, work: Repository) -> None:
    work.commit_only({f"vm-{number}.yaml": vm(f"vm-{number}") for number in range(8)})
    work.commit_only({f"vm-{number}.yaml": None for number in range(8)})
    told = holdfast("plan --git work --from change~1 --to change")
    assert told.returncode == 2
    assert told.stdout.splitlines()[0].startswith("- destroy vm-0 with its disk")
    assert "a host would destroy 8 VMs at once only after `holdfast approve`" in told.stderr
    assert "holdfast approve" not in told.stdout, "its id is not known here"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--git work --from nope", "'nope' is no revision of the repository"),
        ("--git work --from main --to=--all", "'--all' is no revision of the repository"),
        ("--git work --to main", "--from and --to compare two revisions"),
        ("--git https://example/x --from main", "--from and --to compare two revisions"),
        ("--desired work --from main", "--from and --to compare two revisions"),
        ("--git state-less --from main", "names no repository"),
        ("--git beside --from main", "lies in no git repository"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    holdfast: Call, work: Repository, words: str, said: str
) -> None:
    (work.work.parent / "beside").mkdir()
    told = holdfast(f"plan {words}")
    assert (told.returncode, told.stdout) == (64, "")
    assert said in told.stderr
