"""A reboot now and then is none of a loop."""

from __future__ import annotations

import pytest

from agent.hypervisor.resets import IN_A_ROW, ONE_RESET, Resets


@pytest.mark.parametrize(
    ("pauses", "total", "in_a_row"),
    [
        ([], 0, 0),
        ([0.0], 1, 1),
        ([0.0, ONE_RESET / 2, ONE_RESET / 3], 1, 1),
        ([0.0, ONE_RESET, IN_A_ROW - 1], 3, 3),
        ([0.0, 10.0, IN_A_ROW, 10.0], 4, 2),
    ],
)
def test_resets_that_come_soon_after_each_other_are_in_a_row(
    pauses: list[float], total: int, in_a_row: int
) -> None:
    """`pauses`: seconds from each to the one before. Sabotage: count each that the firmware makes of one."""
    resets, now = Resets(), 1000.0
    for pause in pauses:
        now += pause
        resets.count(now)
    assert (resets.total, resets.in_a_row) == (total, in_a_row)
