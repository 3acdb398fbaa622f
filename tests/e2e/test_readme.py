"""README and examples say what is so: the session is run, the documents are validated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import PROGRAM, ROOT, blocks, missing, pages, read

README = read("README.md")
BLOCKS = blocks(README)


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory in place of the demo's."""
    root = Path(tempfile.mkdtemp(prefix="hf-"))
    yield root / "demo"
    subprocess.run([*PROGRAM, "down", "--yes", "--volumes", "--state", root / "demo"], check=True)
    shutil.rmtree(root)


@pytest.mark.qemu
@pytest.mark.guest
@pytest.mark.timeout(400)
def test_the_session_of_the_first_screen_gives_what_it_shows_and_a_second_demo_adopts(
    state: Path,
) -> None:
    ran: list[list[str]] = []
    for command, shown in BLOCKS[0].session:
        ran.append(call(command, state))
        assert missing(shown, ran[-1]) is None, ran[-1]
        if command == "make demo":
            assert pids(call(command, state)) == pids(ran[-1])
    assert "make demo" in dict(BLOCKS[0].session)


def pids(demo: list[str]) -> list[str]:
    """The processes of the two VMs that a demo shows."""
    head = next(at for at, line in enumerate(demo) if line.startswith("NAME"))
    assert demo[head].split()[5] == "PID"
    found = [line.split()[5] for line in demo[head + 1 : head + 3]]
    assert all(pid.isdigit() for pid in found)
    return found


@pytest.mark.qemu
@pytest.mark.guest
@pytest.mark.timeout(400)
def test_the_way_from_git_is_what_it_shows(state: Path) -> None:
    infra = str(state.parent / "infra")
    [block] = [one for one in BLOCKS if one.kind == "console" and "--git" in one.text]
    assert len(block.session) == 7
    for command, shown in block.session:
        said = call(
            command.replace(".cache/infra", infra).replace(".cache/edge", ".cache/demo"), state
        )
        assert missing(shown, said) is None, said
    assert shown


def call(command: str, state: Path) -> list[str]:
    """What a command of the README prints, run on `state` in place of the demo's directory."""
    words = command.replace(".cache/demo", str(state))
    words = words.replace(".venv/bin/holdfast", " ".join(PROGRAM))
    if words.startswith("make "):
        words += f" DEMO_STATE={state}"
    told = subprocess.run(
        ["sh", "-c", words],
        cwd=ROOT,
        env=os.environ | {"SKIP_PACKAGES": "1"},
        capture_output=True,
        text=True,
    )
    assert told.returncode in (0, 2), told.stderr
    return told.stdout.replace(str(state), ".cache/demo").splitlines()


def test_every_make_target_of_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        assert set(re.findall(r"`make ([a-z-]+)[ `]", read(page))) <= targets, page


def test_the_documents_of_the_readme_are_valid_together(tmp_path: Path) -> None:
    for number, block in enumerate(BLOCKS):
        if block.kind == "yaml":
            (tmp_path / f"{number}.yaml").write_text(block.text)
    assert len(list(tmp_path.iterdir())) == 3
    told = subprocess.run([*PROGRAM, "validate", tmp_path], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


def test_the_job_of_the_documentation_is_valid_beside_the_images_of_the_readme(
    tmp_path: Path,
) -> None:
    [text] = [one.text for one in blocks(read("docs/jobs.md")) if one.kind == "yaml"]
    [images] = [one.text for one in BLOCKS if "kind: images" in one.text]
    sizes = "sizes: {medium: {cpus: 2, memory: 2GiB}}\n"
    for name, content in (("job.yaml", text), ("images.yaml", images + sizes)):
        (tmp_path / name).write_text(content)
    for name in ("build.sh", "config.toml"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    told = subprocess.run([*PROGRAM, "validate", tmp_path], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


def test_the_error_of_the_readme_is_the_one_that_is_printed(tmp_path: Path) -> None:
    text = "api: holdfast/v1\nkind: vm\nname: web\nmemry: 1GiB\n"
    (tmp_path / "web.yaml").write_text(text)
    told = subprocess.run(
        [*PROGRAM, "validate", "web.yaml"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stdout.splitlines()[0] in README


TREES = {path.relative_to(ROOT / "examples").parts[0] for path in ROOT.glob("examples/*/**/*.yaml")}


@pytest.mark.parametrize("tree", sorted(TREES))
def test_every_example_tree_is_valid(tree: str) -> None:
    told = subprocess.run(
        [*PROGRAM, "validate", ROOT / "examples" / tree],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert told.returncode == 0, told.stdout


def test_every_check_of_the_threat_model_has_a_test_or_is_said_to_be_none() -> None:
    rows = re.findall(
        r"^\| (T\d+) \| (.*) \| (.*) \|$", (ROOT / "docs/security.md").read_text(), re.M
    )
    assert [row[0] for row in rows] == [f"T{number}" for number in range(1, 49)]
    assert not [row for row in rows if "::test_" not in row[2] and "ot defended**" not in row[1]]


def test_every_test_that_the_documentation_names_is_there() -> None:
    named = [
        test
        for page in ROOT.glob("docs/**/*.md")
        for test in re.findall(r"`(tests/\w+/\w+\.py)::(\w+)`", page.read_text())
    ]
    assert len(named) > 50
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.M), (file, name)
