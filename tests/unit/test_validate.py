"""`holdfast validate` and `holdfast schema`, as a hook or a person calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.validate import schema, validate
from tests.trees import MAP, job, tree, vm, write


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(validate, [str(one) for one in arguments])


def lines(result: Result) -> list[str]:
    return result.stdout.splitlines()


def test_a_good_tree_is_told_in_one_line_on_standard_error(tmp_path: Path) -> None:
    result = run(tree(tmp_path, {"web.yaml": vm("web")}))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "2 documents, no problems\n"


def test_each_problem_is_one_line_that_an_editor_can_follow(tmp_path: Path) -> None:
    root = tree(tmp_path, {"vms/web.yaml": vm("web", "memry: 1GiB", "cpus: 0"), "x.yaml": "- web"})
    result = run(root)
    assert result.exit_code == 1
    assert lines(result) == [
        f"{root}/vms/web.yaml:4:1: unknown key `memry` (did you mean `memory`?)",
        f"{root}/vms/web.yaml:5:7: `cpus`: `0` is too little (at least 1)",
        f"{root}/x.yaml:1:1: a list is no document (a document is a mapping that begins with"
        " `api: holdfast/v1`)",
    ]
    assert result.stderr == "3 documents, 3 problems\n"


def test_json_has_every_problem_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, {"web.yaml": vm("web", "cpus: 0"), "images.yaml": MAP.replace("sha256", "#")})
    monkeypatch.chdir(tmp_path)
    result = run(".", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "ok": False,
        "documents": 2,
        "problems": [
            {
                "file": "web.yaml",
                "line": 4,
                "column": 7,
                "kind": "vm",
                "name": "web",
                "message": "`cpus`: `0` is too little (at least 1)",
            }
        ],
        "hosts": [
            {
                "file": "images.yaml",
                "line": 1,
                "kind": "images",
                "name": "default",
                "hosts": ["*"],
                "here": None,
            },
            {
                "file": "web.yaml",
                "line": 1,
                "kind": "vm",
                "name": "web",
                "hosts": ["*"],
                "here": None,
            },
        ],
        "warnings": [
            {
                "file": "images.yaml",
                "line": 8,
                "message": "image `debian-12` has no sha256: nothing proves what is downloaded",
            }
        ],
    }


def test_warnings_fail_nothing(tmp_path: Path) -> None:
    root = write(tmp_path, {"images.yaml": MAP.replace("sha256", "#")})
    result = run(root)
    assert result.exit_code == 0
    assert lines(result) == [
        f"{root}/images.yaml:8: warning: image `debian-12` has no sha256: nothing proves what is"
        " downloaded"
    ]


def test_a_file_alone_is_not_asked_for_its_labels(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "image: other", "size: other")})
    assert run(root / "web.yaml").exit_code == 0


def test_with_an_image_map_among_the_files_or_beside_them_labels_are_looked_up(
    tmp_path: Path,
) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "image: other")})
    expected = f"{root}/web.yaml:4:8: unknown image `other` (known: debian-12, debian)"
    for result in (
        run(root / "web.yaml", root / "images.yaml"),
        run(root / "web.yaml", "--images", root / "images.yaml"),
    ):
        assert (result.exit_code, lines(result)) == (1, [expected])


def test_files_are_checked_against_each_other(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "a.yaml": vm("a", "ports: [{host: 80, guest: 1}]"),
            "b/b.yaml": vm("b", "ports: [{host: 80, guest: 1}]"),
            "c.yaml": vm("a"),
        },
    )
    result = run(root / "a.yaml", root / "b" / "b.yaml")
    assert [line.split(": ")[0] for line in lines(result)] == [
        f"{root}/a.yaml:4:9",
        f"{root}/b/b.yaml:4:9",
    ]
    assert "vm `a` is also in" in run(root / "a.yaml", root / "c.yaml").stdout


def test_files_may_name_others_below_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(
        tmp_path,
        {"vms/web.yaml": vm("web", "user_data_file: ../cloud/web.cfg"), "cloud/web.cfg": "x"},
    )
    monkeypatch.chdir(tmp_path)
    assert run("vms/web.yaml").exit_code == 0
    monkeypatch.chdir(tmp_path / "vms")
    assert lines(run("web.yaml"))[0].startswith("web.yaml:4:17: `user_data_file`")


def test_a_job_alone_is_checked_with_its_files_and_without_its_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = "files: [{path: /root/in.json, source: ../data/in.json}]"
    text = job("t", "runs_on: other", files, script="script_file: run.sh")
    root = tree(tmp_path, {"ci/t.yaml": text, "ci/run.sh": "make", "data/in.json": "{}"})
    monkeypatch.chdir(root)
    assert run("ci/t.yaml").exit_code == 0
    (root / "data" / "in.json").unlink()
    result = run("ci/t.yaml")
    assert (result.exit_code, lines(result)) == (
        1,
        [
            "ci/t.yaml:6:39: `source`: `../data/in.json` cannot be used: there is no such file",
        ],
    )
    result = run("ci/t.yaml", "images.yaml")
    assert lines(result)[0].startswith("ci/t.yaml:6:39: `source`")
    write(root, {"data/in.json": "{}"})
    assert lines(run("ci/t.yaml", "images.yaml")) == [
        "ci/t.yaml:5:10: unknown image `other` (known: debian-12, debian)"
    ]


def test_a_job_and_a_vm_of_one_name_are_told_in_json(tmp_path: Path) -> None:
    result = run(tree(tmp_path, {"a.yaml": vm("t"), "b.yaml": job("t")}), "-o", "json")
    told = [(one["kind"], one["name"]) for one in json.loads(result.stdout)["problems"]]
    assert told == [("vm", "t"), ("job", "t")]


def test_a_hook_may_hand_over_what_the_tree_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        {
            ".pre-commit-config.yaml": "repos: []",
            ".github/workflows/ci.yaml": "on: push",
            "desired/.holdfastignore": "cloud/\n",
            "desired/cloud/init.yaml": "#cloud-config\n",
            "desired/web.yaml": vm("web"),
        },
    )
    monkeypatch.chdir(tmp_path)
    names = [".pre-commit-config.yaml", ".github/workflows/ci.yaml", "desired/cloud/init.yaml"]
    result = run(*names, "desired/web.yaml")
    assert result.exit_code == 0
    assert lines(result) == [
        f"{name}: warning: is passed over, as it would be in its tree" for name in sorted(names)
    ]
    assert result.stderr == "1 document, no problems\n"


def test_a_file_below_a_directory_that_is_given_too_is_checked_once(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.yaml": vm("web", "cpus: 0")})
    assert len(lines(run(root, root / "web.yaml"))) == 1


def test_directories_are_trees_of_their_own(tmp_path: Path) -> None:
    tree(tmp_path / "a", {"web.yaml": vm("web")})
    tree(tmp_path / "b", {"web.yaml": vm("web")})
    assert run(tmp_path / "a", tmp_path / "b").exit_code == 0
    assert run(tmp_path).exit_code == 1


def test_a_directory_without_documents_is_a_problem(tmp_path: Path) -> None:
    result = run(write(tmp_path, {"README": "x"}))
    assert (result.exit_code, lines(result)) == (
        1,
        [f"{tmp_path}: there are no documents (an agent would hold every name)"],
    )


@pytest.mark.timeout(10)
def test_what_is_no_file_is_a_problem(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.yaml")
    result = run(tmp_path / "x.yaml")
    assert (result.exit_code, lines(result)) == (
        1,
        [f"{tmp_path}/x.yaml: cannot be read: it is no regular file"],
    )


def test_documents_for_different_hosts_do_not_contradict_each_other(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "a.yaml": vm("web", "hosts: [a1]", "ports: [{host: 80, guest: 1}]"),
            "b.yaml": vm("web", "hosts: ['b*']", "ports: [{host: 80, guest: 1}]"),
        },
    )
    assert run(root).exit_code == 0
    write(root, {"c.yaml": vm("other", "hosts: [b7]", "ports: [{host: 80, guest: 1}]")})
    assert [line.split(":")[0] for line in lines(run(root))] == [f"{root}/b.yaml", f"{root}/c.yaml"]
    assert run(root, "--host", "a1").exit_code == 0
    assert run(root, "--host", "b7").exit_code == 1
    write(root, {"d.yaml": vm("web")})
    assert {line.split(":")[0] for line in lines(run(root, "--host", "a1"))} == {
        f"{root}/a.yaml",
        f"{root}/d.yaml",
    }


def test_which_hosts_a_document_reaches_is_shown_where_it_is_not_for_all(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.yaml": vm("a", "hosts: ['edge-*', lab]"), "b.yaml": vm("b")})
    shown = f"{root}/a.yaml:1: vm a is for hosts edge-*, lab"
    told = "3 documents, no problems\n"
    assert run(root).stderr == f"{shown}\n{told}"
    assert run(root, "--host", "edge-7").stderr == f"{shown}, this host is one\n{told}"
    assert run(root, "--host", "other").stderr == f"{shown}, not this\n{told}"
    found = json.loads(run(root, "--host", "other", "-o", "json").stdout)["hosts"]
    assert [(one["name"], one["hosts"], one["here"]) for one in found] == [
        ("a", ["edge-*", "lab"], False),
        ("b", ["*"], True),
        ("default", ["*"], True),
    ]


def test_a_problem_is_told_once_whatever_the_number_of_hosts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"a.yaml": vm("a", "hosts: [one]", "cpus: 0"), "b.yaml": vm("b", "hosts: [two, three]")},
    )
    result = run(root, "-o", "json")
    assert [one["name"] for one in json.loads(result.stdout)["problems"]] == ["a"]


def test_where_images_may_come_from_is_no_question_of_documents(tmp_path: Path) -> None:
    """Sabotage: ask as an agent does. A tree that is good then fails in the hook that has no such option."""
    disks = write(tmp_path / "disks", {"a.qcow2": "x"})
    text = MAP.replace("https://images.example/debian-12.qcow2", f"{disks}/a.qcow2")
    root = tree(tmp_path / "tree", {"images.yaml": text, "web.yaml": vm("web")})
    result = run(root)
    assert (result.exit_code, lines(result)) == (
        0,
        [
            f"{root}/images.yaml:8: warning: image `debian-12` lies outside the tree: an agent takes it"
            " only where --image-root allows its directory"
        ],
    )
    result = run(root, "--image-root", disks)
    assert (result.exit_code, lines(result)) == (0, [])


def test_what_is_wrong_with_an_image_is_told_of_the_map_alone(tmp_path: Path) -> None:
    """Sabotage: tell it of each vm too. One mistake is then as many lines as there are vms."""
    documents = {name: vm(name) for name in ("a", "b")} | {
        "c": vm("c", "image: debian"),
        "images": MAP.replace("https://", "gopher://"),
    }
    result = run(write(tmp_path, {f"{name}.yaml": text for name, text in documents.items()}))
    assert result.exit_code == 1
    [line] = lines(result)
    assert "has the scheme `gopher`" in line
    text = MAP.replace("default_label: debian-12", "default_label: other")
    [line] = lines(run(write(tmp_path, {"images.yaml": text, "c.yaml": vm("c")})))
    assert line.endswith("unknown image `other` (known: debian-12, debian)")


def holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from agent.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    result = holdfast("validate", str(tmp_path / "nowhere"))
    assert result.returncode == 64
    assert "does not exist" in result.stderr
    assert holdfast("validate").returncode == 64


@pytest.mark.parametrize("kind", [[], ["vm"], ["job"], ["images"]])
def test_a_schema_is_json(kind: list[str]) -> None:
    result = CliRunner().invoke(schema, kind)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_an_unknown_kind_is_a_usage_error() -> None:
    assert holdfast("schema", "pod").returncode == 64


def test_nothing_of_the_rest_is_imported_for_it() -> None:
    program = """
import sys
from click.testing import CliRunner
from agent.cli.validate import validate
CliRunner().invoke(validate, [sys.argv[1]])
heavy = {"paramiko", "aiohttp", "qemu", "sqlite_utils", "psutil", "watchfiles", "rich", "structlog"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, "."], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
