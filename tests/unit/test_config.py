"""The settings of an agent: what was said, where it is kept, and what they fall back on."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.compose import origin_of
from agent.config import Settings
from agent.errors import BadInput

paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).map(
    lambda text: Path("/") / text.lstrip("/")
)
words = st.none() | st.text(min_size=1)
settings = st.builds(
    Settings,
    desired=st.none() | paths,
    images=st.none() | paths,
    image_root=st.lists(paths, max_size=3).map(tuple),
    host=words,
    accel=st.sampled_from([None, "auto", "kvm", "tcg"]),
    qemu=words,
    hypervisor=st.sampled_from([None, "qemu", "memory"]),
)


@given(settings)
def test_settings_come_out_of_the_ledger_as_they_went_in(one: Settings) -> None:
    """Sabotage: leave the roots of images as text."""
    assert Settings.from_json(one.to_json()) == one


@given(settings, settings)
def test_what_is_said_now_stands_before_what_was_said_then(now: Settings, then: Settings) -> None:
    """Sabotage: take the older value where there are both."""
    both = now.or_else(then)
    for name in Settings.__slots__:
        said, before = getattr(now, name), getattr(then, name)
        assert getattr(both, name) == (before if said in (None, ()) else said)


def test_nothing_was_said_where_nothing_is_kept() -> None:
    assert Settings.from_json(None) == Settings()
    assert Settings.from_json('{"desired": "/d", "of_a_later_version": 1}') == Settings(Path("/d"))


def test_relative_paths_are_those_of_the_directory_that_they_were_said_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {
        "desired": Path("tree"), "images": Path("map.yaml"), "image_root": (Path("a"), Path("/b")),
        "host": None, "interval": 3.0,
    }  # fmt: skip
    said = Settings.from_options(options)
    assert said.desired == tmp_path / "tree"
    assert said.images == tmp_path / "map.yaml"
    assert said.image_root == (tmp_path / "a", Path("/b"))


def test_the_host_is_called_as_it_is_said_to_be_or_as_it_calls_itself() -> None:
    assert Settings(host="here").host_name() == "here"
    assert Settings().host_name() == socket.gethostname()


def test_without_a_source_there_is_nothing_to_keep() -> None:
    assert origin_of(Settings(Path("/d"))) is None
    with pytest.raises(BadInput, match=r"no source .* \(say --desired DIR or --git URL"):
        origin_of(Settings())
    with pytest.raises(BadInput, match=r"--branch says something of a repository"):
        origin_of(Settings(Path("/d"), branch="main"))


def test_where_documents_come_from_is_said_whole_or_taken_whole() -> None:
    before = Settings(git="https://h/r", branch="b", path="p", host="here")
    assert Settings(Path("/d")).or_else(before) == Settings(Path("/d"), host="here")
    assert Settings(git="https://h/s").or_else(before) == Settings(git="https://h/s", host="here")
    assert Settings(host="other").or_else(before) == replace(before, host="other")
