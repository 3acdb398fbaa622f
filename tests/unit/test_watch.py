"""A directory is watched whatever becomes of it, and of what the kernel says to that."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import watch as watch_module
from agent.wake import Wake
from agent.watch import watch

LATE = 30.0


@asynccontextmanager
async def watching(path: Path, *, recursive: bool = True) -> AsyncIterator[Wake]:
    """Watched until the block ends."""
    wake = Wake()
    task = asyncio.ensure_future(watch(path, wake, recursive=recursive))
    try:
        yield wake
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def write(path: Path, text: str) -> None:
    path.write_text(text)


async def heard(wake: Wake, path: Path, reason: str = "files changed") -> None:
    """Write to `path` until a wake says so: a watch that is only being set up may miss the first."""
    async with asyncio.timeout(LATE):
        for number in range(10_000):
            write(path, str(number))
            if reason in await wake.wait(0.2):
                return
    raise AssertionError(f"nobody said {reason}")


async def said(wake: Wake, reason: str) -> None:
    async with asyncio.timeout(LATE):
        while reason not in await wake.wait(LATE):
            pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at who bears the name ten times a second."""
    monkeypatch.setattr(watch_module, "_LOOK_AGAIN", 100)


async def test_an_edit_below_is_heard(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    async with watching(tmp_path) as wake:
        await heard(wake, tmp_path / "deep" / "web.yaml")
        (tmp_path / "deep" / "web.yaml").rename(tmp_path / "web.yaml")
        await said(wake, "files changed")


async def test_an_edit_after_a_long_rest_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_QUICK_FOR", 0.0)
    async with watching(tmp_path) as wake:
        await heard(wake, tmp_path / "web.yaml")


async def test_only_the_directory_itself_is_watched_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    async with watching(tmp_path, recursive=False) as wake:
        await heard(wake, tmp_path / "images.yaml")
        while "files changed" in await wake.wait(0.2):
            pass
        (tmp_path / "deep" / "web.yaml").write_text("x")
        assert await wake.wait(0.3) == ("timer",)


@pytest.mark.usefixtures("quick")
async def test_a_directory_that_is_not_there_is_watched_once_it_appears(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    async with watching(tree) as wake:
        assert await wake.wait(0.3) == ("timer",)
        tree.mkdir()
        await said(wake, f"{tree} appeared")
        await heard(wake, tree / "web.yaml")


@pytest.mark.usefixtures("quick")
async def test_another_directory_of_the_same_name_is_watched_again(tmp_path: Path) -> None:
    """Sabotage: watch the inode for ever. A release that is switched by a rename is then never seen again."""
    tree, new = tmp_path / "tree", tmp_path / "new"
    tree.mkdir()
    new.mkdir()
    async with watching(tree) as wake:
        await heard(wake, tree / "web.yaml")
        tree.rename(tmp_path / "old")
        new.rename(tree)
        await said(wake, f"{tree} is another directory")
        await heard(wake, tree / "web.yaml")


@pytest.mark.usefixtures("quick")
async def test_a_directory_that_goes_and_comes_is_watched_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    async with watching(tree) as wake:
        await heard(wake, tree / "web.yaml")
        tree.rename(tmp_path / "away")
        await said(wake, f"{tree} is another directory")
        (tmp_path / "away").rename(tree)
        await said(wake, f"{tree} appeared")
        await heard(wake, tree / "web.yaml")


@pytest.mark.usefixtures("quick")
async def test_a_link_that_is_switched_is_followed(tmp_path: Path) -> None:
    one, two, tree = tmp_path / "one", tmp_path / "two", tmp_path / "tree"
    one.mkdir()
    two.mkdir()
    tree.symlink_to(one)
    async with watching(tree) as wake:
        await heard(wake, one / "web.yaml")
        (tmp_path / "next").symlink_to(two)
        (tmp_path / "next").rename(tree)
        await said(wake, f"{tree} is another directory")
        await heard(wake, two / "web.yaml")


# A kernel that refuses

REFUSED = """
import asyncio, sys
from pathlib import Path
from agent import watch as module
from agent.wake import Wake
from agent.watch import watch

module._LOOK_AGAIN = 50
tree = Path(sys.argv[1])
for limit in sys.argv[2:]:
    Path("/proc/sys/user", limit).write_text("0")

async def main():
    wake = Wake()
    task = asyncio.ensure_future(watch(tree, wake))
    asyncio.get_running_loop().call_later(20.0, task.cancel)
    while not task.done():
        reasons = await wake.wait(0.2)
        if reasons != ("timer",):
            print(reasons[0], flush=True)
            task.cancel()
            await asyncio.wait([task])
            return
        (tree / "web.yaml").write_text("x")
    task.result()

asyncio.run(main())
"""


def refused(tree: Path, *before: str, limits: tuple[str, ...] = ()) -> str:
    """What the first wake says in a process to which the kernel refuses something."""
    done = subprocess.run(
        [*before, sys.executable, "-c", REFUSED, tree, *limits],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_where_the_kernel_lets_nobody_watch_it_is_looked_at_again_and_again(
    tmp_path: Path, limit: str
) -> None:
    """Sabotage: catch OSError alone, or have watchfiles pass over what it is refused: the agent dies, or is blind."""
    namespace = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespace can be made here")
    assert refused(tmp_path, *namespace, limits=(limit,)) == f"{tmp_path} cannot be watched"


def test_a_part_that_may_not_be_read_hides_nothing_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret").chmod(0)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    assert refused(tmp_path, *without * (os.geteuid() == 0)) == "files changed"


def test_a_watcher_that_panics_is_left_behind_and_another_one_made(tmp_path: Path) -> None:
    """Sabotage: catch Exception alone where watchfiles is asked, which Rust's panics are not."""
    failing = "strace -f -qq -o /dev/null -P anon_inode:[eventfd] -e inject=write:error=EIO:when=1"
    assert refused(tmp_path, *failing.split()) == f"{tmp_path} cannot be watched"


LEFT = """
import sys
from pathlib import Path
from agent import watch as module
module._LOOK_AGAIN = 10
watched = module._Watched(Path(sys.argv[1]), recursive=True, in_part=False)
assert not watched.look()
watched.leave()
print("left")
"""


def test_a_watcher_that_panics_when_it_is_closed_is_let_go_of(tmp_path: Path) -> None:
    """Sabotage: let a panic through where watchfiles is closed."""
    failing = "strace -f -qq -P anon_inode:[eventfd] -e inject=write:error=EIO:when=2+"
    done = subprocess.run(
        [*failing.split(), sys.executable, "-c", LEFT, tmp_path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
    assert "(INJECTED)" in done.stderr
