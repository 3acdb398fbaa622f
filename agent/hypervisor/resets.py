"""Counts the resets of one guest, so that a loop of them can be told from a reboot now and then. Pure."""

from __future__ import annotations

ONE_RESET = 1.0
"""Seconds that count as one reset: SeaBIOS itself resets the machine some four times after a guest's reboot."""
IN_A_ROW = 300.0
"""Seconds after which a reset has nothing to do with the one before."""


class Resets:
    """`total` since the counting began, and `in_a_row`, of which each came soon after the one before."""

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0
        self._last: float | None = None

    def count(self, now: float) -> None:
        """One more, at `now` (seconds of any steady clock)."""
        since = None if self._last is None else now - self._last
        if since is not None and since < ONE_RESET:
            return
        self.total += 1
        self.in_a_row = self.in_a_row + 1 if since is not None and since < IN_A_ROW else 1
        self._last = now
