"""The trees in `examples/`: each is planned without a word against it, and reached on a host in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import ROOT

EXAMPLES = ROOT / "examples"
WANTED = {
    ("desired", "here"): {"web", "worker", "hello"},
    ("next", "here"): {"web"},
    ("edge-web", "here"): {"web"},
    ("ci-runner", "here"): {"build", "lint"},
    ("database", "here"): {"db", "api"},
    ("many-hosts", "edge-7"): {"probe", "web"},
    ("many-hosts", "build-2"): {"probe", "nightly"},
    ("many-hosts", "build-3"): {"probe"},
}
"""The names that each tree means, on a host."""


def call(command: str, tree: str, host: str, state: Path, *words: str) -> tuple[int, Any, str]:
    """The status, what was printed as JSON, and what was said beside that."""
    told = subprocess.run(
        [sys.executable, "-m", "agent", command, "--state", state, "--desired", EXAMPLES / tree,
         "--host", host, "--hypervisor", "memory", "--image-root", ROOT / ".cache/guests", *words],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    printed = json.loads(told.stdout) if words == ("-o", "json") else told.stdout
    return told.returncode, printed, told.stderr


@pytest.mark.parametrize(("tree", "host"), WANTED)
def test_a_tree_is_planned_for_its_host(tmp_path: Path, tree: str, host: str) -> None:
    status, plan, said = call("plan", tree, host, tmp_path / "state", "-o", "json")
    assert (status, said) == (2, "")
    assert (plan["problems"], plan["error"]) == ([], None)
    assert {step["name"] for step in plan["steps"]} == WANTED[tree, host]
    assert {step["action"] for step in plan["steps"]} <= {"create", "run", "wait"}


def test_what_depends_on_another_waits_for_it(tmp_path: Path) -> None:
    _, plan, _ = call("plan", "database", "here", tmp_path / "state", "-o", "json")
    actions = {step["name"]: step["action"] for step in plan["steps"]}
    assert actions == {"db": "create", "api": "wait"}


def test_every_tree_of_documents_is_among_them() -> None:
    """All but those of images alone."""
    trees = {path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.glob("*/**/*.yaml")}
    assert trees == {tree for tree, _ in WANTED} | {"catalogue"}


def test_the_page_names_every_tree() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for directory in EXAMPLES.iterdir():
        assert directory.is_file() or "](" + directory.name + ")" in page, directory
