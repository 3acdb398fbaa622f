"""What is installed somewhere else: a wheel with all that it needs, completion in three shells, and a manual."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import _COMMANDS
from tests.e2e.site import ROOT, image_path

pytestmark = pytest.mark.timeout(300)

UV = ROOT / ".tools/bin/uv"
BIN = Path(sys.executable).parent
BUILD = "0123456789ab"


def called(*command: str | Path, **how: object) -> str:
    """What a command prints; it must say nothing beside that, and succeed."""
    told = subprocess.run(command, capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert told.returncode == 0, f"{told.args}: {told.returncode}\n{told.stderr}\n{told.stdout}"
    assert "Traceback" not in told.stderr
    return str(told.stdout)


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("man")
    called(sys.executable, "tools/man.py", into, cwd=ROOT)
    return into


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """Where programs lie after a wheel was built from a copy of what is here and installed as a tool."""
    with tempfile.TemporaryDirectory() as made:
        copy, tools = Path(made, "checkout"), Path(made, "tools")
        listed = called(
            "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT
        )
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        called(sys.executable, "tools/man.py", copy / "build/man", cwd=ROOT)
        built = os.environ | {"HOLDFAST_BUILD": BUILD}
        called(BIN / "hatchling", "build", "-t", "wheel", cwd=copy, env=built)
        [wheel] = (copy / "dist").glob("*.whl")
        settings = {
            "UV_TOOL_DIR": str(tools), "UV_TOOL_BIN_DIR": str(tools / "bin"), "UV_NO_PROGRESS": "1",
            "UV_HTTP_TIMEOUT": "180", **index(),
        }  # fmt: skip
        called(
            UV, "tool", "install", "--python", sys.executable, "--constraints",
            ROOT / "requirements/runtime.lock", wheel, env=os.environ | settings, cwd=made,
        )  # fmt: skip
        yield tools / "bin"


def index() -> dict[str, str]:
    """The index that this host's pip is told to ask, for uv, which reads no settings of pip's."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    told = subprocess.run(asked, capture_output=True, text=True)
    return {"UV_DEFAULT_INDEX": told.stdout.strip()} if told.returncode == 0 else {}


def test_an_installed_wheel_has_all_that_it_needs(installed: Path, tmp_path: Path) -> None:
    """Sabotage: leave a file that is no Python out of the wheel."""
    program = installed / "holdfast"
    said = called(program, "--version")
    assert re.fullmatch(rf"holdfast, version \S+ \(built from {BUILD}\)\n", said)
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    called(program, "validate", ROOT / "examples/desired", cwd=tmp_path, env=home)
    called(program, "simulate", "--seed", "1", "--steps", "5", cwd=tmp_path, env=home)
    inside = installed.parent / "holdfast"
    [package] = inside.glob("lib/python*/site-packages/agent")
    data = {path.relative_to(ROOT / "agent") for path in (ROOT / "agent").rglob("*") if path.is_file()}  # fmt: skip
    data = {path for path in data if path.suffix not in (".py", ".pyc")}
    assert len(data) > 3
    assert {path for path in data if not (package / path).is_file()} == set()
    assert (inside / "share/man/man1/holdfast-run.1").is_file()


@pytest.mark.guest
def test_an_installed_wheel_keeps_vms_and_runs_jobs(installed: Path, tmp_path: Path) -> None:
    """Sabotage: leave paramiko, which only a guest that answers is asked with, out of what a wheel needs."""
    images = image_path("HOLDFAST_TINY_IMAGE", "tiny.qcow2").parent
    with tempfile.TemporaryDirectory(prefix="hf-") as state:

        def told(*words: str | Path) -> str:
            mine = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "HOLDFAST_STATE": state}
            mine["HOLDFAST_LOOPBACK"] = os.environ["HOLDFAST_LOOPBACK"]
            return called(installed / "holdfast", *words, cwd=tmp_path, env=mine)

        told("doctor")
        try:
            desired = ("--desired", ROOT / "examples/desired", "--image-root", images)
            told("run", "--once", "--accel", "tcg", *desired)
            items = json.loads(told("status", "-o", "json"))["items"]
            assert {one["name"]: one["phase"] for one in items} == {
                "web": "running", "worker": "running", "hello": "succeeded"
            }  # fmt: skip
            assert told("ssh", "web", "--", "uname") == "Linux\n"
        finally:
            told("down", "--yes", "--volumes")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_an_installed_wheel_prints_completion(installed: Path, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(called(installed / "holdfast", "completion", shell))
    called(shell, "-n", script)


def test_a_checkout_says_no_build() -> None:
    assert re.fullmatch(r"holdfast, version [0-9.]+\n", called(BIN / "holdfast", "--version"))


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is on PATH, as shells want it."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    ("typed", "found"),
    [("sta", {"status"}), ("job re", {"rerun"}), ("run --on", {"--once", "--on-stop"})],
)
def test_bash_completes(tmp_path: Path, typed: str, found: set[str]) -> None:
    script = tmp_path / "holdfast"
    script.write_text(called("holdfast", "completion", "bash"))
    words = ["holdfast", *typed.split()]
    asked = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1};"
    told = called("bash", "--norc", "-c", f"{asked} _holdfast_completion holdfast; echo ${{COMPREPLY[@]}}")  # fmt: skip
    assert set(told.split()) == found


@pytest.mark.usefixtures("beside")
def test_fish_completes(tmp_path: Path) -> None:
    script = tmp_path / "holdfast.fish"
    script.write_text(called("holdfast", "completion", "fish"))
    told = called("fish", "--no-config", "-c", f"source {script}; complete -C 'holdfast sta'")
    assert told.split()[0] == "status"


@pytest.mark.usefixtures("beside")
def test_zsh_completes(tmp_path: Path) -> None:
    """Its completion wants a terminal; so the script is read by it, and what the script asks for is asked."""
    script = tmp_path / "_holdfast"
    script.write_text(called("holdfast", "completion", "zsh"))
    assert script.read_text().startswith("#compdef holdfast")
    called("zsh", "--no-rcs", "-n", script)
    asked = {"COMP_WORDS": "holdfast sta", "COMP_CWORD": "1", "_HOLDFAST_COMPLETE": "zsh_complete"}
    assert "status" in called("holdfast", env=os.environ | asked)


def test_the_manual_has_a_page_for_every_command_and_roff_takes_it(manual: Path) -> None:
    """Sabotage: leave a character in it that a terminal without UTF-8 does not have."""
    pages = {path.stem for path in manual.iterdir()}
    assert {"holdfast", "holdfast-job-rerun", *(f"holdfast-{name}" for name in _COMMANDS)} <= pages
    for page in manual.iterdir():
        told = subprocess.run(
            ["man", "--warnings", "--local-file", page],
            capture_output=True,
            text=True,
            env=os.environ | {"MANWIDTH": "100", "LC_ALL": "C"},
        )
        assert (told.returncode, told.stderr) == (0, ""), page.name
        assert "NAME" in told.stdout


def test_the_manual_says_what_the_help_says(manual: Path) -> None:
    told = called("man", "--local-file", manual / "holdfast-run.1", env=os.environ | {"MANWIDTH": "500"})  # fmt: skip
    said = " ".join(re.sub(".\b", "", told).split())
    for words in ("--on-stop [leave|shutdown]", "VMs run on when it stops", "[default: 60s]"):
        assert words in said.replace("\u2010", "-").replace("\u2212", "-"), said
