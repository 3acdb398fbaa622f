"""What an agent knows, in the text format of Prometheus: seconds and bytes, counters that end in `_total`, and no label
whose values have no end but the names that the documents give (https://prometheus.io/docs/practices/naming/).

A page is made anew for each scrape, from the ledger as every command reads it: nothing has to be kept up to date.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from agent.hypervisor.api import Usage
from agent.metrics.tally import Spread, Tally
from state.ids import Uid
from state.observed import Retry

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PHASES = (
    "pending", "starting", "running", "paused", "unresponsive", "stopping", "stopped", "crashed",
)  # fmt: skip
_Looked = dict[str, Any]
"""The shape of `status -o json`."""


def page(
    version: str,
    looked: _Looked,
    tally: Tally,
    usage: Mapping[Uid, Usage],
    retries: Iterable[Retry],
) -> bytes:
    """What is answered to a scrape. `usage` is by uid; a machine that did not answer the last sweep has none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(version, looked, tally, usage, list(retries)))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(
        self,
        version: str,
        looked: _Looked,
        tally: Tally,
        usage: Mapping[Uid, Usage],
        retries: list[Retry],
    ) -> None:
        self._version, self._looked, self._tally = version, looked, tally
        self._usage, self._retries = usage, retries

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("holdfast_build", "This agent.", {"version": self._version})
        items = self._looked["items"]
        vms = [one for one in items if one["kind"] == "vm"]
        jobs = [one for one in items if one["kind"] == "job"]
        yield from _vms(vms)
        yield _by(
            "holdfast_vm_ready_seconds",
            "From a VM's start to its first being ready.",
            "check",
            self._tally.ready,
        )
        yield from _usage(items, self._usage)
        yield from _jobs(jobs, self._tally)
        yield from self._agent()
        yield from self._troubles()

    def _agent(self) -> Iterator[Metric]:
        tally = self._tally
        yield _histogram("holdfast_pass_duration_seconds", "Looking and deciding.", tally.passes)
        if tally.last_pass is not None:
            yield _gauge(
                "holdfast_last_pass_timestamp_seconds",
                "When the loop last looked.",
                tally.last_pass,
            )
        if tally.interval is not None:
            yield _gauge(
                "holdfast_interval_seconds",
                "How long the loop waits at most before it looks again.",
                tally.interval,
            )
        yield _counted("holdfast_wakes", "What woke the loop.", "reason", tally.wakes)
        yield _counted(
            "holdfast_events", "What was recorded, by its reason.", "reason", tally.events
        )
        source = self._looked["agent"]["source"] or {}
        if source.get("fetched_at"):
            yield _gauge(
                "holdfast_source_last_fetch_timestamp_seconds",
                "When the repository's server last answered.",
                datetime.fromisoformat(source["fetched_at"]).timestamp(),
            )
        yield CounterMetricFamily(
            "holdfast_image_fetched_bytes",
            "Of images, from wherever they come.",
            tally.fetched_bytes,
        )
        suspended = bool(self._looked["agent"]["suspended_at"])
        yield _gauge("holdfast_suspended", "1: everything is left alone.", float(suspended))

    def _troubles(self) -> Iterator[Metric]:
        for key, what in (
            ("held", "Documents that are held as they last were good."),
            ("waiting", "Names that wait for something."),
            ("errors", "What is wrong with documents or their source."),
        ):
            yield _gauge(f"holdfast_{key}", what, len(self._looked[key]))
        yield from _names(self._looked)
        failing = [one for one in self._retries if one.failures]
        yield _gauge("holdfast_retrying", "What failed and is tried again.", len(failing))


def _vms(vms: list[dict[str, Any]]) -> Iterator[Metric]:
    phases = GaugeMetricFamily(
        "holdfast_vm_phase", "1 for the phase that a VM is in.", labels=["name", "phase"]
    )
    ready = GaugeMetricFamily("holdfast_vm_ready", "1: a VM is ready.", labels=["name"])
    began = GaugeMetricFamily(
        "holdfast_vm_start_time_seconds", "When a VM was started.", labels=["name"]
    )
    restarts = CounterMetricFamily(
        "holdfast_vm_restarts", "How often a VM was started again.", labels=["name"]
    )
    for vm in vms:
        for phase in _PHASES:
            phases.add_metric([vm["name"], phase], float(vm["phase"] == phase))
        ready.add_metric([vm["name"]], float(vm["ready"]))
        restarts.add_metric([vm["name"]], vm["restarts"])
        if vm["started_at"]:
            began.add_metric([vm["name"]], datetime.fromisoformat(vm["started_at"]).timestamp())
    yield from (phases, ready, began, restarts)


def _usage(items: list[dict[str, Any]], usage: Mapping[Uid, Usage]) -> Iterator[Metric]:
    known = [
        ([one["kind"], one["name"]], usage[one["uid"]]) for one in items if one["uid"] in usage
    ]
    labels = ["kind", "name"]
    cpu = CounterMetricFamily("holdfast_vm_cpu_seconds", "Of the host, by QEMU.", labels=labels)
    vcpu = CounterMetricFamily(
        "holdfast_vm_vcpu_seconds", "Of the host, by a guest's processor.", labels=[*labels, "vcpu"]
    )
    for of, used in known:
        cpu.add_metric(of, used.cpu_seconds)
        for number, seconds in enumerate(used.vcpu_seconds):
            vcpu.add_metric([*of, str(number)], seconds)
    yield from (cpu, vcpu)
    for field, what in (
        ("resident_bytes", "Memory of the host that QEMU takes."),
        ("allocated_bytes", "What a VM's own disk takes of the host's."),
        ("balloon_bytes", "Memory that a guest is left with."),
        ("guest_total_bytes", "Memory, as the guest's kernel counts it."),
        ("guest_available_bytes", "Of that, what its programs can still have."),
    ):
        gauge = GaugeMetricFamily(f"holdfast_vm_{field}", what, labels=labels)
        for of, used in known:
            if (value := getattr(used, field)) is not None:
                gauge.add_metric(of, value)
        yield gauge
    yield from _disks(known)


def _disks(known: list[tuple[list[str], Usage]]) -> Iterator[Metric]:
    for field, name, what in (
        ("read_bytes", "read_bytes", "Read by a guest from a disk."),
        ("written_bytes", "written_bytes", "Written by a guest to a disk."),
        ("reads", "reads_completed", "Reads of a disk."),
        ("writes", "writes_completed", "Writes to a disk."),
        ("read_seconds", "read_time_seconds", "Time that reads of a disk took."),
        ("write_seconds", "write_time_seconds", "Time that writes to a disk took."),
    ):
        counter = CounterMetricFamily(
            f"holdfast_vm_disk_{name}", what, labels=["kind", "name", "disk"]
        )
        for of, used in known:
            for disk in used.disks:
                counter.add_metric([*of, disk.name], getattr(disk, field))
        yield counter


def _jobs(jobs: list[dict[str, Any]], tally: Tally) -> Iterator[Metric]:
    phases = Counter(one["phase"] for one in jobs)
    yield _gauge("holdfast_jobs_queued", "Runs that wait for their turn.", phases["queued"])
    running = phases["booting"] + phases["running"]
    yield _gauge("holdfast_jobs_running", "Runs that are under way.", running)
    codes = GaugeMetricFamily(
        "holdfast_job_exit_code", "Of the last run that has one.", labels=["name"]
    )
    ended = GaugeMetricFamily(
        "holdfast_job_end_timestamp_seconds", "When the last run ended.", labels=["name"]
    )
    for job in jobs:
        if job["exit_code"] is not None:
            codes.add_metric([job["name"]], job["exit_code"])
        if job["ended_at"]:
            ended.add_metric([job["name"]], datetime.fromisoformat(job["ended_at"]).timestamp())
    yield from (codes, ended)
    yield _histogram(
        "holdfast_job_wait_seconds", "From the queue to a run's first attempt.", tally.waits
    )
    yield _histogram(
        "holdfast_job_start_seconds", "From an attempt's beginning to its script's.", tally.starts
    )
    yield _by("holdfast_job_run_duration_seconds", "A run's last attempt.", "result", tally.runs)
    yield CounterMetricFamily(
        "holdfast_job_retries", "Attempts of runs beyond the first.", tally.retried
    )


def _names(looked: _Looked) -> Iterator[Metric]:
    """Which names are in trouble, each told once."""
    held = GaugeMetricFamily("holdfast_name_held", "1 for a name that is held.", labels=["name"])
    for name in sorted({one["name"] for one in looked["held"] if one["name"]}):
        held.add_metric([name], 1.0)
    failed = GaugeMetricFamily(
        "holdfast_name_failed",
        "1 for a name that does not become as its document says.",
        labels=["kind", "name"],
    )
    for item in looked["items"]:
        if any(one["type"] == "Stalled" and one["status"] for one in item["conditions"]):
            failed.add_metric([item["kind"], item["name"]], 1.0)
    yield from (held, failed)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _counted(name: str, what: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, what, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _by(name: str, what: str, label: str, spreads: Mapping[str, Spread]) -> Metric:
    family = HistogramMetricFamily(name, what, labels=[label])
    for value, spread in sorted(spreads.items()):
        family.add_metric([value], buckets=spread.buckets(), sum_value=spread.total)
    return family


def _histogram(name: str, what: str, spread: Spread) -> Metric:
    return HistogramMetricFamily(name, what, buckets=spread.buckets(), sum_value=spread.total)
