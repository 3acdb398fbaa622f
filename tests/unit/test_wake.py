"""What makes the loop look again: a burst is one wake, no reason is lost, and a directory is watched whatever becomes
of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wake as wake_module
from agent.wake import LONGEST_BURST, QUIET, Wake, watch
from tests import virtual

LATE = 30.0


def wakes(notified: list[float], until: float = 1.0) -> list[tuple[float, tuple[str, ...]]]:
    """When somebody who waits again and again was woken and why, for a wake at each of these times."""
    seen: list[tuple[float, tuple[str, ...]]] = []

    async def main() -> None:
        wake, loop = Wake(), asyncio.get_running_loop()
        for number, at in enumerate(notified):
            loop.call_at(at, wake.notify, str(number))
        while loop.time() < until:
            reasons = await wake.wait(until)
            seen.append((round(loop.time(), 6), reasons))

    virtual.run(main())
    return seen


def test_without_a_reason_the_timer_is_one() -> None:
    assert wakes([]) == [(1.0, ("timer",))]


def test_a_burst_is_one_wake_with_every_reason_once_it_is_over() -> None:
    assert wakes([0.2, 0.205, 0.21, 0.216])[0] == (0.226, ("0", "1", "2", "3"))


def test_what_comes_later_is_another_wake() -> None:
    assert wakes([0.2, 0.5])[:2] == [(0.21, ("0",)), (0.51, ("1",))]


def test_a_burst_that_does_not_end_is_answered_all_the_same() -> None:
    endless = [0.2 + 0.008 * n for n in range(60)]
    first, second, *_ = wakes(endless)
    assert first[0] == pytest.approx(0.2 + LONGEST_BURST)
    assert second[0] <= first[0] + LONGEST_BURST + QUIET
    assert len(first[1]) > 10


def test_the_same_reason_is_told_once() -> None:
    async def main() -> tuple[str, ...]:
        wake = Wake()
        for reason in ("edit", "exit", "edit"):
            wake.notify(reason)
        return await wake.wait(5.0)

    assert virtual.run(main()) == ("edit", "exit")


moments = st.integers(0, 60).map(lambda n: n * QUIET / 2) | st.floats(0, 0.6)


@given(st.lists(moments, max_size=20))
def test_every_reason_is_in_exactly_one_wake_and_no_wake_is_without(notified: list[float]) -> None:
    """Sabotage: keep the event set that came with the end of a wait. The next wake then has no reason."""
    seen = wakes(notified)
    told = [reason for _, reasons in seen for reason in reasons if reason != "timer"]
    assert sorted(told, key=int) == [str(number) for number in range(len(notified))]
    assert all(reasons for _, reasons in seen)


@given(st.lists(moments, min_size=1, max_size=20))
def test_no_reason_waits_longer_than_a_burst_may_take(notified: list[float]) -> None:
    """Sabotage: wait for quiet without an end."""
    when = {reason: at for at, reasons in wakes(notified) for reason in reasons}
    for number, at in enumerate(notified):
        assert when[str(number)] - at <= LONGEST_BURST + QUIET + 1e-6


@pytest.mark.parametrize("at", [0.0, 0.1, 0.105, 0.2])
def test_a_wait_that_is_cancelled_ends_and_loses_no_reason(at: float) -> None:
    """Also when the cancellation comes with the wake itself, at 0.1."""

    async def main() -> tuple[str, ...]:
        wake, loop = Wake(), asyncio.get_running_loop()
        task = asyncio.ensure_future(wake.wait(5.0))
        loop.call_at(0.1, wake.notify, "edit")
        loop.call_at(at, task.cancel)
        with suppress(asyncio.CancelledError):
            return await task
        await asyncio.sleep(0.2)
        return await wake.wait(5.0)

    assert virtual.run(main()) == ("edit",)


# A real directory


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
    monkeypatch.setattr(wake_module, "_LOOK_AGAIN", 100)


async def test_an_edit_below_is_heard(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    async with watching(tmp_path) as wake:
        await heard(wake, tmp_path / "deep" / "web.yaml")
        (tmp_path / "deep" / "web.yaml").rename(tmp_path / "web.yaml")
        await said(wake, "files changed")


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
from agent import wake as module
from agent.wake import Wake, watch

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
