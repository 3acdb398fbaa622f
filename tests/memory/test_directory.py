"""The whole agent over a real directory, on a host in memory."""

from __future__ import annotations

from pathlib import Path

from agent.source.directory import DirectorySource
from tests.memory.world import Lab
from tests.trees import HOST, tree, vm, write
from tests.waiting import eventually

BEFORE_THE_TIMER = 4.0
"""Seconds, less than the interval at which an agent of the lab looks again in any case."""


async def test_a_directory_is_followed_and_a_deletion_is_believed_soon(tmp_path: Path) -> None:
    """Catches: a loop that does not look again when its source asks for it."""
    root = tree(tmp_path / "tree", {"web.yaml": vm("web"), "db.yaml": vm("db")})
    lab = Lab(tmp_path / "state.db")
    lab.source = DirectorySource(root, host=HOST)  # type: ignore[assignment]
    async with lab.running():
        await eventually(lambda: set(lab.uids()) == {"web", "db"}, "both run")
        db = lab.instance("db").uid
        (root / "web.yaml").unlink()
        lab.look()
        await eventually(lambda: set(lab.uids()) == {"db"}, "web is gone", BEFORE_THE_TIMER)
        write(root, {"db.yaml": vm("db", "cpus: 0"), "x.yaml": vm("x")})
        lab.look()
        await eventually(lambda: set(lab.uids()) == {"db", "x"}, "x runs beside what is held")
        assert lab.instance("db").uid == db
