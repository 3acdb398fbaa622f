"""How long to wait before a failed step is tried again. Pure."""

from __future__ import annotations

import hashlib

from state.clock import Moment
from state.observed import Retry

FIRST = 1.0
LONGEST = 300.0
STABLE_AFTER = 600.0
"""Seconds that an instance must have run before its earlier failures are forgotten."""


def delay(key: str, failures: int) -> float:
    """Seconds before try `failures` + 1: doubled each time from 1 s to 5 min, then up to a tenth more, which depends on
    the key alone, so that many names that failed together do not come back together."""
    if failures <= 0:
        return 0.0
    spread = hashlib.sha256(key.encode()).digest()[0] / 2550
    return min(LONGEST, FIRST * 2.0 ** min(failures - 1, 30)) * (1 + spread)


def failed(retry: Retry, error: str, now: Moment, what: str = "") -> Retry:
    """The record after one more failure of `what`. Failures of something else, and those that lie before a stable time,
    do not count."""
    stable = (
        retry.retry_boot != now.boot_id
        or now.boottime - retry.retry_at > STABLE_AFTER
        or retry.what != what
    )
    failures = 1 if stable else retry.failures + 1
    return Retry(
        key=retry.key,
        what=what,
        failures=failures,
        retry_at=now.boottime + delay(retry.key, failures),
        retry_boot=now.boot_id,
        error=error,
    )


def remaining(retry: Retry, now: Moment) -> float:
    """Seconds until the next try, 0 when it is due. A wait that began before a reboot is over."""
    if not retry.failures or retry.retry_boot != now.boot_id:
        return 0.0
    return max(0.0, min(retry.retry_at - now.boottime, 1.1 * LONGEST))


def tried(retry: Retry, word: str = "tried") -> str:
    """How often, as a sentence part."""
    return f"{word} {'once' if retry.failures == 1 else f'{retry.failures} times'}"
