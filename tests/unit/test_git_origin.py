"""Which words name a repository, a branch and a directory of it, and which name none."""

from __future__ import annotations

import pytest

from agent.errors import BadUsage
from agent.source.git.origin import origin


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/a/b.git", "ssh://git@git.example:2222/a.git", "file:///srv/a.git",
        "git@git.example:a/b.git", "git@git.example:/srv/a.git", "host:a", "git@[::1]:a.git", "/srv/a.git",
    ],
)  # fmt: skip
def test_what_git_would_fetch_is_a_repository(url: str) -> None:
    assert str(origin(url, "main", "./sites//a/")) == f"{url}#main:sites/a"
    assert origin(url, None, None).ref == "HEAD"


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c x", "fd::17", "-uorigin", "--upload-pack=x", "a/b", "", "http://git.example/a", "git://h/a",
        "ftp://h/a", "https://u:p@h/a", "https://u@h/a", "ssh://u:p@h/a", "https://[::1/a", "host::a", "a\nb:c",
    ],
)  # fmt: skip
def test_what_runs_a_command_or_shows_a_password_is_none(url: str) -> None:
    with pytest.raises(BadUsage):
        origin(url, None, None)


@pytest.mark.parametrize(
    "branch", ["-x", "a..b", "a b", "a^", "/a", "a/", "a.lock", "a@{0}", "", "."]
)
def test_what_git_would_not_take_is_no_branch(branch: str) -> None:
    with pytest.raises(BadUsage, match="no name of a branch"):
        origin("/srv/a.git", branch, None)


@pytest.mark.parametrize("path", ["..", "../a", "a/../../b", "a\nb"])
def test_what_leads_out_is_no_directory_of_it(path: str) -> None:
    with pytest.raises(BadUsage, match="no directory of a repository"):
        origin("/srv/a.git", None, path)


def test_two_branches_of_one_repository_have_clones_of_their_own() -> None:
    keys = {
        origin(url, branch, path).key
        for url in ("/a", "/b")
        for branch in (None, "main")
        for path in (None, "x")
    }
    assert len(keys) == 4
