"""What Prometheus is told: well formed, by its conventions, and bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parsed

from agent.guest.flights import Flights
from agent.hypervisor.api import Usage
from agent.metrics import export
from agent.metrics.images import CountedImages
from agent.metrics.tally import Spread, Tally
from agent.planned import Plan
from agent.record import Pass
from state.history import Event
from state.ids import Digest, Uid
from state.observed import BaseImage, HowFar, Observed, StoredImage, image_key
from state.runs import Run, RunPhase
from state.spec.resolved import ImageSpec
from tests.builders import desired, run, vm
from tests.unit.test_metrics import usage
from tests.waiting import eventually

WEB = Uid("00000000-0000-5000-8000-000000000001")
VM: dict[str, Any] = {
    "kind": "vm", "name": "web", "uid": WEB, "phase": "running", "ready": True, "restarts": 3,
    "started_at": "2026-01-01T00:00:00.000Z", "conditions": [],
}  # fmt: skip
JOB: dict[str, Any] = {
    "kind": "job", "name": "hello", "uid": None, "phase": "failed", "exit_code": 7,
    "ended_at": "2026-01-01T00:00:10.000Z",
    "conditions": [{"type": "Ready", "status": False}, {"type": "Stalled", "status": True}],
}  # fmt: skip


def looked(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    agent = more.pop("agent", {"source": None, "suspended_at": None})
    return {
        "agent": agent, "items": list(items), "held": [], "waiting": [], "errors": [], **more,
    }  # fmt: skip


def page(
    *items: dict[str, Any], tally: Tally | None = None, used: Usage | None = None, **more: Any
) -> dict[str, Metric]:
    """The families of a page, by their names."""
    known = {WEB: used} if used else {}
    text = export.page("1.2.3", looked(*items, **more), tally or Tally(), known, []).decode()
    return {family.name: family for family in parsed(text)}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in family.samples}


def busy() -> Tally:
    tally = Tally()
    made = Pass("p", ("timer", "web: exit"), desired(vm()), Observed(), Plan(()), 0.3)
    tally.interval = 30.0
    tally.passed(made, 1000.0)
    tally.happened(Event(at=1.0, reason="Ready", message="it is"))
    for one in lives("succeeded"):
        tally.ran(one)
    tally.became_ready("ssh", 4.5)
    tally.fetched(7 << 20)
    return tally


def lives(end: str) -> Iterator[Run]:
    """A run from its queue to its end."""
    queued = run(phase=RunPhase.QUEUED, queued_at=100.0, attempt=0)
    yield queued
    booting = replace(queued, phase=RunPhase.BOOTING, attempt=1, began_at=104.0)
    yield booting
    running = replace(booting, phase=RunPhase.RUNNING, started_at=110.0)
    yield running
    yield replace(running, phase=RunPhase(end), ended_at=130.0)


def test_the_names_are_as_prometheus_wants_them() -> None:
    """Of promtool's checks those that can be made here: a prefix, base units, `_total` for counters alone, a help."""
    found = page(VM, JOB, tally=busy(), used=usage(1, 5.0, 100))
    assert len(found) > 30
    for name, family in found.items():
        assert re.fullmatch(r"holdfast_[a-z0-9_]+", name), name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent)(_|$)", name)
        assert not (family.type != "counter" and name.endswith(("_total", "_count")))
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total")
            assert set(sample.labels) <= {
                "kind", "name", "phase", "disk", "vcpu", "reason", "le", "result", "version", "check",
            }  # fmt: skip


def test_a_vm_is_told_with_its_use() -> None:
    found = page(VM, used=usage(1, 5.0, 100))
    assert values(found["holdfast_vm_phase"])["web", "running"] == 1
    assert sum(values(found["holdfast_vm_phase"]).values()) == 1
    assert values(found["holdfast_vm_restarts"]) == {("web",): 3}
    assert values(found["holdfast_vm_cpu_seconds"]) == {("vm", "web"): 5.0}
    written = values(found["holdfast_vm_disk_written_bytes"])
    assert written == {("root", "vm", "web"): 100, ("seed", "vm", "web"): 0}


def test_what_is_not_known_is_left_out() -> None:
    """Sabotage: tell 0 for it. A guest without a driver then seems to have no memory left."""
    found = page(VM, used=usage(1, 5.0))
    assert values(found["holdfast_vm_guest_total_bytes"]) == {}
    assert values(page(VM)["holdfast_vm_cpu_seconds"]) == {}


@pytest.mark.parametrize("end", ["succeeded", "failed", "timeout"])
def test_a_run_is_counted_once_with_its_wait_its_start_and_its_result(end: str) -> None:
    tally = Tally()
    for one in lives(end):
        tally.ran(one)
        tally.ran(one)
    assert (tally.waits.total, tally.starts.total) == (4.0, 6.0)
    assert {result: (one.total, sum(one.counts)) for result, one in tally.runs.items()} == {
        end: (26.0, 1)
    }


def test_runs_that_ended_before_this_agent_are_none_of_its_own() -> None:
    """Sabotage: count the wait and the start of one that goes on; the agent before has."""
    *before, ended = lives("succeeded")
    for last in (*before, ended):
        tally = Tally()
        tally.found(last)
        tally.ran(last)
        assert (tally.waits.total, tally.starts.total, tally.runs) == (0, 0, {})
    tally = Tally()
    tally.found(before[-1])
    tally.ran(ended)
    assert [sum(one.counts) for one in tally.runs.values()] == [1]


def test_buckets_count_up() -> None:
    spread = Spread((1.0, 5.0))
    for seconds in (0.5, 1.0, 3.0, 70.0):
        spread.add(seconds)
    assert spread.buckets() == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert spread.total == 74.5


def test_wakes_are_counted_without_the_names_that_they_were_about() -> None:
    tally = Tally()
    reasons = (
        "web: exit", "db is ready", "image debian was fetched", "the repository says something else",
        "/desired appeared", "files changed",
    )  # fmt: skip
    tally.passed(Pass("p", reasons, desired(), Observed(), Plan(()), 0.1), 5.0)
    assert tally.wakes == {
        "machine": 2, "image": 1, "repository": 1, "other": 1, "files changed": 1,
    }  # fmt: skip


def test_troubles_are_counted() -> None:
    held = [{"name": "db", "message": "broken"}]
    found = page(held=held, errors=held * 2)
    assert values(found["holdfast_held"]) == {(): 1}
    assert values(found["holdfast_errors"]) == {(): 2}


def test_which_names_are_in_trouble_is_told_of_each_once() -> None:
    held = [{"name": "db", "message": "broken"}, {"name": "db", "message": "twice"}]
    found = page(VM, JOB, held=[*held, {"name": None, "message": "no name can be read"}])
    assert values(found["holdfast_name_held"]) == {("db",): 1}
    assert values(found["holdfast_name_failed"]) == {("job", "hello"): 1}


def test_what_agents_wait_for_is_measured() -> None:
    found = page(tally=busy())
    ready = {
        (one.name, one.labels.get("le")): one.value
        for one in found["holdfast_vm_ready_seconds"].samples
        if one.labels["check"] == "ssh"
    }
    assert ready["holdfast_vm_ready_seconds_sum", None] == 4.5
    assert ready["holdfast_vm_ready_seconds_bucket", "2.5"] == 0
    assert ready["holdfast_vm_ready_seconds_bucket", "5.0"] == 1
    assert values(found["holdfast_image_fetched_bytes"]) == {(): 7 << 20}


def test_attempts_beyond_the_first_are_counted() -> None:
    """Sabotage: count every attempt."""
    tally = Tally()
    queued, booting, *_ = lives("succeeded")
    for attempt in (1, 2, 3):
        tally.ran(replace(queued, attempt=attempt - 1))
        tally.ran(replace(booting, attempt=attempt))
    assert (tally.retried, sum(tally.waits.counts)) == (2, 1)


async def test_the_bytes_of_an_image_count_once_however_many_wait_for_them() -> None:
    """Sabotage: count what each is told."""
    tally, goes_on = Tally(), asyncio.Event()
    images = CountedImages(Slow(goes_on), tally.fetched)
    image = vm().image
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(images.fetch(image, lambda _: None))
        await eventually(lambda: tally.fetched_bytes == 60, "what has come is counted")
        goes_on.set()
    assert tally.fetched_bytes == 60 + 100  # from another place, from the beginning
    await images.fetch(image, lambda _: None)
    assert tally.fetched_bytes == 2 * 160


class Slow:
    """A store whose fetch gives up a copy at 60 bytes and begins again. Nothing stays in it."""

    def __init__(self, goes_on: asyncio.Event) -> None:
        self._goes_on, self._flights = goes_on, Flights()

    async def fetch(self, image: ImageSpec, progress: Callable[[HowFar], None]) -> BaseImage:
        return await self._flights.join(image_key(image), self._bring, progress)

    async def _bring(self, progress: Callable[[HowFar], None]) -> BaseImage:
        for got in (30, 60):
            progress(HowFar(got, None))
        await self._goes_on.wait()
        for got in (10, 100):
            progress(HowFar(got, 100))
        return BaseImage(Path("/none"), "raw", 1, Digest("sha256:" + "0" * 64))

    async def look(self, images: Collection[ImageSpec]) -> Mapping[ImageSpec, BaseImage]:
        return {}

    async def stored(self) -> Sequence[StoredImage]:
        return []

    async def remove(self, image: StoredImage) -> None: ...
