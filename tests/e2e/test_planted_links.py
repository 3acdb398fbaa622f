"""Whoever plants a link where the agent writes has nothing written behind it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

THEIRS = "theirs\n"


@pytest.fixture
def lived(still: Site) -> Iterator[Site]:
    """A site whose agent has written all that it writes: a machine was started and is gone again."""
    still.vm("web")
    assert once(still) == 0
    yield still
    remove_links(still)


def once(site: Site) -> int:
    """An agent that does what there is to do and leaves; its exit status."""
    agent = site.start("--once")
    try:
        return agent.wait(15)
    except subprocess.TimeoutExpired:  # it waits for what the link hides
        agent.terminate()
        return agent.wait(120)


def written(site: Site) -> list[Path]:
    """Every file below the state; a directory may be a link: an operator has a larger disk for images, say."""
    return sorted(one for one in site.state.rglob("*") if one.is_file())


def remove_links(site: Site) -> None:
    for path in site.state.rglob("*"):
        if path.is_symlink():
            path.unlink()


def stopped(site: Site) -> None:
    """The machine is told to end: one that is killed again and again would be started ever later."""
    site.vm("web", more="power: stopped")
    assert once(site) == 0
    assert site.processes() == {}


def test_no_link_is_written_through_at_any_path_of_the_state(lived: Site) -> None:
    """Each file in its turn; the machine is stopped before and started then, so that all of it is written again.
    Sabotage: open a log, a lock or a description without O_NOFOLLOW."""
    target = lived.state.parent / "target"
    names = [one.relative_to(lived.state) for one in written(lived)]
    assert {"agent.lock", "state.db", "state.id"} <= {str(one) for one in names}
    assert {"disk.qcow2", "console.log", "instance.json"} <= {one.name for one in names}
    followed = []
    for name in names:
        stopped(lived)
        path = lived.state / name
        if not path.is_file():
            continue
        aside = path.with_name(f"{path.name}.aside")
        path.rename(aside)
        target.write_text(THEIRS)
        target.chmod(0o600)
        path.symlink_to(target)
        lived.vm("web")
        once(lived)
        if (target.read_bytes(), target.stat().st_mode & 0o777) != (THEIRS.encode(), 0o600):
            followed.append(str(name))
        path.unlink(missing_ok=True)
        aside.rename(path)
        lived.until(lambda: once(lived) == 0 and lived.processes(), "all is as it was", 120)
    assert followed == []
