"""Waiting after failures: longer each time up to a bound, over after a reboot, and never by the wall clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import FIRST, LONGEST, STABLE_AFTER, delay, failed, remaining, tried
from state.clock import Moment
from state.observed import Retry
from tests.builders import moment

keys = st.text(max_size=20)
times = st.floats(0, 1e8)


@given(keys, st.integers(0, 200))
def test_a_wait_never_gets_shorter_and_never_too_long(key: str, failures: int) -> None:
    """Sabotage: spread the waits by the number of failures too, or leave the bound out."""
    assert delay(key, failures) <= delay(key, failures + 1) <= 1.1 * LONGEST
    assert delay(key, failures + 1) >= FIRST


def test_the_first_waits_double_and_then_stay() -> None:
    base = delay("vm/web", 1)
    assert FIRST <= base <= 1.1 * FIRST
    assert [round(delay("vm/web", n) / base, 6) for n in (1, 2, 3, 9)] == [1, 2, 4, 256]
    assert delay("vm/web", 10) == delay("vm/web", 10_000) == LONGEST * base / FIRST
    assert delay("vm/web", 0) == 0


def test_many_that_failed_together_do_not_come_back_together() -> None:
    assert len({delay(f"vm/web-{n}", 1) for n in range(100)}) > 50


@given(keys, times, st.floats(0, 700), st.floats(-1e9, 1e9))
def test_the_wall_clock_is_of_no_consequence(
    key: str, at: float, later: float, step: float
) -> None:
    """Sabotage: count from `now.wall`."""
    one, other = Moment(1e9, at, "boot-1"), Moment(1e9 + step, at, "boot-1")
    assert failed(Retry(key), "no", one) == failed(Retry(key), "no", other)
    retry = failed(Retry(key), "no", one)
    then = Moment(1e9, at + later, "boot-1")
    assert remaining(retry, then) == remaining(retry, replace(then, wall=then.wall + step))


@given(keys, times, st.lists(st.floats(0, 900), max_size=8))
def test_what_is_left_shrinks_as_time_passes_and_is_bounded(
    key: str, at: float, steps: list[float]
) -> None:
    """Sabotage: leave the bound of `remaining` out; a clock that goes back would wait for ever."""
    retry = failed(failed(Retry(key), "no", moment(at)), "no", moment(at))
    left = remaining(retry, moment(at))
    assert left <= delay(key, 2) + 1e-6
    now = at
    for step in steps:
        now += step
        assert 0 <= remaining(retry, moment(now)) <= left
        left = remaining(retry, moment(now))
    assert remaining(retry, moment(now + 400)) == 0
    assert remaining(retry, moment(at - 1e7)) <= 1.1 * LONGEST


@given(keys, times, times, st.integers(1, 50))
def test_a_reboot_ends_every_wait_and_forgets_what_went_before(
    key: str, at: float, after: float, failures: int
) -> None:
    """Sabotage: compare the uptime of one boot with that of another."""
    retry = Retry(key, "", failures, at + 100, "boot-1", "no")
    rebooted = moment(after, "boot-2")
    assert remaining(retry, rebooted) == 0
    assert failed(retry, "no", rebooted).failures == 1


def test_failures_in_a_row_are_counted_and_keep_their_words() -> None:
    first = failed(Retry("vm/web"), "no port", moment(10.0), "create 1")
    second = failed(first, "no disk", moment(12.0), "create 1")
    assert (first.failures, second.failures) == (1, 2)
    assert (second.what, second.error, second.retry_boot) == ("create 1", "no disk", "boot-1")
    assert second.retry_at == 12.0 + delay("vm/web", 2)


def test_what_failed_otherwise_or_long_ago_does_not_count() -> None:
    retry = Retry("vm/web", "create 1", 5, 100.0, "boot-1", "no")
    assert failed(retry, "no", moment(100.0), "create 2").failures == 1
    assert failed(retry, "no", moment(100.0 + STABLE_AFTER), "create 1").failures == 6
    assert failed(retry, "no", moment(100.1 + STABLE_AFTER), "create 1").failures == 1


def test_nothing_failed_is_nothing_to_wait_for() -> None:
    assert remaining(Retry("vm/web", retry_at=1e9, retry_boot="boot-1"), moment()) == 0


@pytest.mark.parametrize(("failures", "said"), [(1, "tried once"), (2, "tried 2 times")])
def test_how_often_is_said_in_words(failures: int, said: str) -> None:
    assert tried(Retry("vm/web", failures=failures)) == said
    assert tried(Retry("vm/web", failures=failures), "restarted").startswith("restarted ")
