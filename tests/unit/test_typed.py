"""What is printed can be typed: under which name the program tells of its own commands."""

import os
import sys
from pathlib import Path

import pytest

from agent.cli.typed import program


@pytest.mark.parametrize(
    ("called", "told"),
    [
        ("{found}/holdfast", "holdfast"),
        ("{other}/holdfast", "other/holdfast"),
        ("{gone}/holdfast", "gone/holdfast"),
        ("holdfast", "holdfast"),
        ("{found}/__main__.py", "holdfast"),
    ],
    ids=["found", "not found", "upgraded meanwhile", "by its name alone", "as a module"],
)
def test_a_command_is_told_as_a_shell_finds_it(
    called: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name for name in ("found", "other", "gone")}
    for place in places.values():
        place.mkdir()
        (place / "holdfast").touch(mode=0o755)
    (places["gone"] / "holdfast").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{places['found']}{os.pathsep}/usr/bin")
    monkeypatch.setattr(sys, "argv", [called.format_map(places)])
    assert program() == told


def test_a_command_that_no_shell_finds_is_told_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "holdfast")])
    assert program() == "bin/holdfast"
