"""What is measured is what happened inside a guest, and no end of an agent or of a QEMU is seen in it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from state.ids import Name
from state.samples import MetricsReader
from state.usage import Sample, rates
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]

MIB = 1 << 20
OFTEN = ("--metrics-interval", "0.5")


def samples(place: Site, name: str = "web") -> list[Sample]:
    """All that was measured of it."""
    with closing(MetricsReader(place.paths.metrics)) as reader:
        [series] = reader.series(Name(name))
        return reader.samples(series, 0.0)


def last(place: Site) -> Sample:
    return samples(place)[-1]


@contextmanager
def measured(place: Site) -> Iterator[None]:
    """What is measured within goes on from what was measured before: never less, and no peak."""
    before = last(place)
    yield
    told = [one for one in samples(place) if one.at >= before.at]
    for rate in rates(told):
        assert min(rate.cpu, rate.written_bytes, rate.read_bytes, rate.writes) >= 0
        # One processor of the guest, and what QEMU does beside it.
        assert rate.cpu * rate.seconds <= 2 * rate.seconds + 1


def test_what_a_guest_does_is_measured_and_goes_on_over_every_end(tiny: Site) -> None:
    tiny.vm("web")
    with tiny.agent(*OFTEN):
        tiny.ready("web")
        tiny.until(lambda: tiny.paths.metrics.exists() and samples(tiny), "it is measured")
        before = last(tiny)
        tiny.ssh("web", "dd if=/dev/zero of=/persist/much bs=1M count=8 conv=fsync 2>/dev/null")
        tiny.until(lambda: written_since(tiny, before) >= 8 * MIB, "what it wrote is seen")
        assert last(tiny).used.writes > before.used.writes
        assert (last(tiny).allocated_bytes or 0) >= (before.allocated_bytes or 0) + 8 * MIB
        tiny.ssh("web", "(while :; do :; done) >/dev/null 2>&1 & echo $! >/tmp/busy")
        before = last(tiny)
        tiny.until(lambda: busy_since(tiny, before) >= 3, "its processor is seen to be busy")
        told_by_commands(tiny)
        tiny.ssh("web", "kill $(cat /tmp/busy)")
        tiny.until(lambda: last(tiny).guest_total_bytes, "its own kernel tells of its memory")
        assert 0 < (last(tiny).guest_available_bytes or 0) < (last(tiny).guest_total_bytes or 0)
    with measured(tiny):
        goes_on(tiny)


def goes_on(tiny: Site) -> None:
    """Over the end of an agent that is killed, and that of a QEMU."""
    before = last(tiny)
    with tiny.agent(*OFTEN) as agent:
        tiny.until(lambda: last(tiny).at > before.at, "the next agent measures")
        agent.kill()
    with tiny.agent(*OFTEN):
        after = last(tiny)
        tiny.until(lambda: last(tiny).at > after.at, "the one after it, too")
        used, restarts = last(tiny).used, tiny.item("web")["restarts"]
        [(pid, _)] = tiny.processes().items()
        os.kill(pid, 9)
        tiny.ready("web", restarts=restarts + 1)
        before = last(tiny)
        tiny.until(lambda: last(tiny).at > before.at, "its next process is measured")
        assert last(tiny).used.written_bytes >= used.written_bytes
        assert last(tiny).used.cpu_seconds > used.cpu_seconds


def written_since(place: Site, before: Sample) -> int:
    return last(place).used.written_bytes - before.used.written_bytes


def busy_since(place: Site, before: Sample) -> float:
    """Seconds that the guest's processor was busy."""
    return last(place).used.vcpu_seconds - before.used.vcpu_seconds


def told_by_commands(place: Site) -> None:
    """`top` and `metrics` tell the same, each in its ways."""
    [told] = json.loads(done(place, "top", "-o", "json"))
    assert (told["kind"], told["name"]) == ("vm", "web")
    assert told["vcpu"] > 0.02
    assert "web" in done(place, "top", "--sort", "memory")
    whole = json.loads(done(place, "metrics", "web", "-o", "json"))["samples"]
    rows: list[dict[str, Any]] = list(
        csv.DictReader(io.StringIO(done(place, "metrics", "web", "-o", "csv")))
    )
    assert rows[0].keys() == whole[0].keys()
    assert len(rows) >= len(whole) > 3
    assert max(one["written_bytes"] for one in whole) > MIB
    assert "CPU" in done(place, "metrics", "web", "--since", "10m")


def done(place: Site, *words: str) -> str:
    told = place.call(*words)
    assert told.returncode == 0, told.stderr.decode()
    return told.stdout.decode()
