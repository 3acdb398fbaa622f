"""What makes the loop look again: a burst is one wake, no reason is lost, and a directory is watched whatever becomes
of it."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wake import LONGEST_BURST, QUIET, Wake
from tests import virtual

LATE = 30.0


def wakes(
    notified: list[float], until: float = 1.0, *, own: Container[int] = (), rests: bool = False
) -> list[tuple[float, tuple[str, ...]]]:
    """When somebody who waits again and again was woken and why, for a wake at each of these times. `own`: the
    numbers of those that our own steps bring about; `rests`: after each wake."""
    seen: list[tuple[float, tuple[str, ...]]] = []

    async def main() -> None:
        wake, loop = Wake(), asyncio.get_running_loop()
        for number, at in enumerate(notified):
            loop.call_at(at, partial(wake.notify, str(number), own=number in own))
        while loop.time() < until:
            reasons = await wake.wait(until)
            seen.append((round(loop.time(), 6), reasons))
            if rests:
                wake.rest()

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


def test_what_our_own_steps_bring_about_is_answered_at_once_and_ends_no_burst() -> None:
    """Sabotage: wait for quiet after whatever comes; or after nothing."""
    assert wakes([0.2], own={0})[0] == (0.2, ("0",))
    assert wakes([0.2, 0.205], own={1})[0] == (0.215, ("0", "1"))
    assert wakes([0.2, 0.2], own={0})[0] == (0.21, ("0", "1"))
    assert wakes([0.2, 0.204, 0.208], own={0, 2})[:2] == [(0.2, ("0",)), (0.218, ("1", "2"))]


def test_who_rests_answers_what_its_own_steps_bring_about_as_one_and_all_else_as_ever() -> None:
    """Sabotage: begin the rest with the first wake; or let an edit wait for the end of it."""
    assert wakes([0.2, 0.22, 0.25, 0.6], own={0, 1, 2, 3}, rests=True)[:3] == [
        (0.2, ("0",)),
        (0.3, ("1", "2")),
        (0.6, ("3",)),
    ]
    assert wakes([0.2, 0.22, 0.25], own={0, 1}, rests=True)[1] == (0.26, ("1", "2"))


def test_the_same_reason_is_told_once() -> None:
    async def main() -> tuple[str, ...]:
        wake = Wake()
        for reason in ("edit", "exit", "edit"):
            wake.notify(reason)
        return await wake.wait(5.0)

    assert virtual.run(main()) == ("edit", "exit")


moments = st.integers(0, 60).map(lambda n: n * QUIET / 2) | st.floats(0, 0.6)


numbers = st.sets(st.integers(0, 19))


@given(st.lists(moments, max_size=20), numbers, st.booleans())
def test_every_reason_is_in_exactly_one_wake_and_no_wake_is_without(
    notified: list[float], own: set[int], rests: bool
) -> None:
    """Sabotage: keep the event set that came with the end of a wait. The next wake then has no reason."""
    seen = wakes(notified, own=own, rests=rests)
    told = [reason for _, reasons in seen for reason in reasons if reason != "timer"]
    assert sorted(told, key=int) == [str(number) for number in range(len(notified))]
    assert all(reasons for _, reasons in seen)


@given(st.lists(moments, min_size=1, max_size=20), numbers, st.booleans())
def test_no_reason_waits_longer_than_a_burst_may_take(
    notified: list[float], own: set[int], rests: bool
) -> None:
    """And no other than one of our own for longer than that. Sabotage: wait for quiet without an end."""
    told = wakes(notified, own=own, rests=rests)
    when = {reason: at for at, reasons in told for reason in reasons}
    for number, at in enumerate(notified):
        assert (
            when[str(number)] - at <= (1 + (rests and number in own)) * LONGEST_BURST + QUIET + 1e-6
        )


@pytest.mark.parametrize("own", [(True, False), (False, True)])
def test_what_somebody_else_has_brought_about_too_is_not_our_own(own: tuple[bool, bool]) -> None:
    """Sabotage: go by who said it last."""

    async def main() -> float:
        wake = Wake()
        wake.rest()
        for one in own:
            wake.notify("web: paused", own=one)
        await wake.wait(5.0)
        return asyncio.get_running_loop().time()

    assert virtual.run(main()) == pytest.approx(QUIET)


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
