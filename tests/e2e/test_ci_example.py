"""What `examples/ci` offers, as a pipeline runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.gits import Repository, git
from tests.trees import MAP, vm

ROOT = Path(__file__).parents[2]


def check(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [ROOT / "examples/ci/check.sh", *words],
        cwd=work,
        env={"PATH": path, "HOME": str(work), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_pipeline_sees_what_a_merge_would_do_on_each_host(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.commit({"images.yaml": MAP, "web.yaml": vm("web")})
    git(repository.work, "checkout", "-q", "-b", "change")
    repository.commit_only({"web.yaml": vm("web", "cpus: 2"), "a.yaml": vm("a", "hosts: [edge-*]")})
    told = check(repository.work, "main", "edge-1", "lab")
    assert told.returncode == 0, told.stderr
    edge, lab = told.stdout.split("## lab")
    assert "± replace web with its disk: cpus 1 -> 2" in edge
    assert "+ create a: " in edge
    assert "+ create a: " not in lab
    repository.commit_only({"web.yaml": vm("web", "cpus: lots")})
    told = check(repository.work, "main", "edge-1")
    assert told.returncode == 1
    assert "web.yaml:4:7: `cpus`" in told.stdout


def test_the_hook_names_a_command_that_there_is(tmp_path: Path) -> None:
    [hook] = YAML(typ="safe").load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (tmp_path / "web.yaml").write_text(vm("web", "cpus: lots"))
    program, *words = hook["entry"].split()
    command = [Path(sys.executable).parent / program, *words, "web.yaml"]
    told = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (told.returncode, told.stdout.split(":")[:3]) == (1, ["web.yaml", "4", "7"])
