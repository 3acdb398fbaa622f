"""Who may ask what of an agent on an address of its host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.errors import StateUnusable
from agent.web.gate import Gate, token_of

TOKEN = "t" * 43
GATE = Gate(frozenset({"box", "box.example"}), TOKEN)
MINE = {"Host": "127.0.0.1:8080", "Authorization": f"Bearer {TOKEN}"}


def status(headers: dict[str, str], *, changes: bool = True) -> int:
    """That of the refusal; 200 for none."""
    refusal = GATE.refusal(headers, changes=changes)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("localhost", 200), ("box.example.:80", 200),
        ("BOX", 200), ("evil.example", 421), ("localhost.evil.example:80", 421), ("", 421),
    ],
)  # fmt: skip
def test_only_names_of_this_host_are_answered_to(host: str, found: int) -> None:
    """Sabotage: answer to any name. A page whose name is pointed here then reads all that its reader may."""
    assert status({**MINE, "Host": host}, changes=False) == found
    assert status({**MINE, "Host": host}) == found


@pytest.mark.parametrize(
    "said",
    [
        "", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}t", f"Basic {TOKEN}", TOKEN,
        "Bearer \udcff\udcfe", f"Bearer {TOKEN.upper()}",
    ],
)  # fmt: skip
def test_what_is_not_the_token_changes_nothing(said: str) -> None:
    """Sabotage: compare with `startswith`, or only the scheme."""
    assert status({**MINE, "Authorization": said}) == 401
    assert status({"Host": "127.0.0.1"}) == 401
    # To look takes none, and a wrong one is in nobody's way.
    assert status({**MINE, "Authorization": said}, changes=False) == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_who_has_the_token_may_change_something(scheme: str) -> None:
    assert status({**MINE, "Authorization": f"{scheme} {TOKEN}"}) == 200


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8080"}, 200),
        ({"Origin": "https://127.0.0.1:8080"}, 200),  # behind what speaks TLS for it
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:8081"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
)
def test_the_page_of_somebody_else_changes_nothing_even_with_the_token(
    said: dict[str, str], found: int
) -> None:
    assert status({**MINE, **said}) == found
    assert status({**MINE, **said}, changes=False) == 200


# The file


def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path, before = tmp_path / "token", os.umask(0)
    try:
        made = token_of(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made) >= 43
    assert token_of(path) == made
    path.unlink()
    assert token_of(path) != made


@pytest.mark.parametrize("content", ["", "short", "x" * 40 + "\x07", "ł" * 40])
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(StateUnusable, match=r"it holds none \(remove it, and the agent makes"):
        token_of(tmp_path / "token")


def test_one_that_others_may_read_is_refused(tmp_path: Path) -> None:
    token_of(tmp_path / "token")
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(StateUnusable, match=r"others may read it \(mode 0640\)"):
        token_of(tmp_path / "token")


def test_one_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x" * 50)
    (tmp_path / "token").symlink_to(tmp_path / "other")
    with pytest.raises(StateUnusable, match="reading the token"):
        token_of(tmp_path / "token")
