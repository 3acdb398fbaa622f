"""What machines have used is kept over every kind of end, becomes coarser with time, and stays small."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hypervisor.api import DiskUsage, RunState, Usage
from state.ids import Name, Process, Uid
from state.metrics import Keep, Look, Metrics
from state.samples import MetricsReader, MetricsUnusable
from state.usage import MOST, Counters, Rate, Sample, rates

BEGAN = 1_700_000_040.0
"""The first second of a minute."""
WEB = Uid("00000000-0000-5000-8000-000000000001")


def usage(pid: int, seconds: float, written: int = 0, memory: int = 1 << 20) -> Usage:
    """Of a process that has been busy for so long."""
    return Usage(
        process=Process("boot", pid, pid * 100),
        state=RunState.RUNNING,
        cpu_seconds=seconds,
        vcpu_seconds=(seconds / 2,),
        resident_bytes=memory,
        allocated_bytes=written,
        disks=(DiskUsage("seed", 7, 0, 7, 0), DiskUsage("root", written // 2, written, 1, 2)),
    )


def look(of: Usage, uid: Uid = WEB, name: str = "web") -> Look:
    return Look(uid, "vm", Name(name), of)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


@pytest.fixture
def metrics(path: Path) -> Iterator[Metrics]:
    made = Metrics(path)
    yield made
    made.close()


def samples(path: Path, since: float, name: str = "web") -> list[Sample]:
    with closing(MetricsReader(path)) as reader:
        return [
            sample for one in reader.series(Name(name)) for sample in reader.samples(one, since)
        ]


def test_what_was_used_between_two_looks_is_told(metrics: Metrics, path: Path) -> None:
    metrics.add(BEGAN, [look(usage(1, 5.0, 1000))])
    metrics.add(BEGAN + 10, [look(usage(1, 10.0, 3000))])
    [rate] = rates(samples(path, BEGAN))
    assert (rate.seconds, rate.cpu, rate.vcpu, rate.written_bytes) == (10, 0.5, 0.25, 200.0)
    assert rate.sample.used.read_bytes == 1500


@pytest.mark.parametrize("agents", [1, 2], ids=["one agent", "another agent"])
def test_a_new_process_goes_on_from_where_the_last_one_ended(path: Path, agents: int) -> None:
    """Sabotage: take what QEMU says as it is. A restart then looks like a machine that gave back what it had used."""
    metrics = Metrics(path)
    metrics.add(BEGAN, [look(usage(1, 100.0, 5000))])
    if agents == 2:
        metrics.close()
        metrics = Metrics(path)
    metrics.add(BEGAN + 10, [look(usage(2, 1.0, 40))])
    metrics.add(BEGAN + 20, [look(usage(2, 2.0, 60))])
    metrics.close()
    told = [one.used for one in samples(path, BEGAN)]
    assert [(one.cpu_seconds, one.written_bytes) for one in told] == [
        (100.0, 5000), (101.0, 5040), (102.0, 5060),
    ]  # fmt: skip


def test_an_agent_that_was_away_makes_no_peak_of_it(path: Path) -> None:
    for at, seconds in ((BEGAN, 10.0), (BEGAN + 600, 310.0)):
        metrics = Metrics(path)
        metrics.add(at, [look(usage(1, seconds))])
        metrics.close()
    assert [rate.cpu for rate in rates(samples(path, BEGAN))] == [0.5]


def test_what_is_old_becomes_coarser_and_then_goes(path: Path) -> None:
    keep = Keep(looks=300, minutes=7200, hours=4 * 3600)
    metrics = Metrics(path, keep)
    steps = range(0, 6 * 3600, 20)
    for step in steps:
        metrics.add(BEGAN + step, [look(usage(1, step / 2, step * 100, memory=1000 + step))])
    metrics.close()
    now = BEGAN + steps[-1]
    reader = MetricsReader(path)
    [web] = reader.series()
    for since, each, longest in ((299, 20, 300), (7100, 60, 7200), (4 * 3600, 3600, 4 * 3600)):
        told = reader.samples(web, now - since)
        between = [round(rate.seconds) for rate in rates(told)]
        assert max(between) == between[0] == each, f"what is told of the last {since} s"
        assert len(between) <= longest // each + 90
        assert now - told[0].at <= longest + each
        # However coarse, what was used is exact.
        assert {rate.cpu for rate in rates(told)} == {0.5}
    reader.close()
    with sqlite3.connect(path) as raw:
        for table, kept in (("looks", 300), ("minutes", 7200), ("hours", 4 * 3600)):
            [(oldest,)] = raw.execute(f"SELECT min(at) FROM {table}").fetchall()  # noqa: S608
            assert now - oldest <= kept + 60
    raw.close()


@pytest.mark.parametrize(
    ("kept", "since", "each"),
    [(6 * 3600, 3 * 3600, 20), (300, 3 * 3600, 60), (6 * 3600, 30 * 86400, 20)],
    ids=["it reaches", "it does not", "nothing does"],
)
def test_what_is_told_is_as_fine_as_what_is_kept(
    path: Path, kept: float, since: float, each: int
) -> None:
    """Sabotage: choose by the defaults. Who keeps more then does not see it."""
    metrics = Metrics(path, Keep(looks=kept))
    for step in range(0, 5 * 3600, 20):
        metrics.add(BEGAN + step, [look(usage(1, step / 2))])
    metrics.close()
    now = BEGAN + 5 * 3600
    found = rates(samples(path, now - since))
    assert {round(rate.seconds) for rate in found[:60]} == {each}
    assert found[0].sample.at - found[0].seconds <= max(BEGAN, now - since) + 120


def test_what_is_no_counter_is_told_as_an_average(metrics: Metrics, path: Path) -> None:
    for step in range(0, 120, 10):
        metrics.add(BEGAN + step, [look(usage(1, 0.0, memory=1000 if step < 60 else 2000))])
    metrics.add(BEGAN + 120, [look(usage(1, 0.0, memory=9000))])
    with sqlite3.connect(path) as raw:
        told = raw.execute("SELECT resident_bytes FROM minutes ORDER BY at").fetchall()
    raw.close()
    assert told == [(1000,), (2000,), (9000,)]


def test_what_was_never_told_stays_unknown(metrics: Metrics, path: Path) -> None:
    for step in range(0, 130, 10):
        metrics.add(BEGAN + step, [look(usage(1, 0.0))])
    for since in (BEGAN, BEGAN - 7200):
        for told in samples(path, since):
            assert told.guest_total_bytes is None
            assert told.balloon_bytes is None


def test_a_machine_of_which_nothing_is_known_any_more_is_forgotten(path: Path) -> None:
    metrics = Metrics(path, Keep(looks=120, minutes=7200, hours=7200))
    metrics.add(BEGAN, [look(usage(1, 1.0))])
    other = Uid("00000000-0000-5000-8000-000000000002")
    metrics.add(BEGAN + 3 * 7200, [look(usage(2, 1.0), other, "db")])
    with closing(MetricsReader(path)) as reader:
        assert [one.name for one in reader.series()] == ["db"]
    # It may still come back, and is then a new one.
    metrics.add(BEGAN + 3 * 7200 + 10, [look(usage(1, 2.0))])
    assert samples(path, BEGAN)[-1].used.cpu_seconds == 2.0
    metrics.close()


def test_a_clock_that_was_wrong_stands_in_the_way_of_nothing(path: Path) -> None:
    """Sabotage: keep what lies in the future. Nothing becomes coarser then until the future has come."""
    metrics = Metrics(path)
    for ahead in (0.0, 70.0, 7000.0):
        metrics.add(BEGAN + 10**9 + ahead, [look(usage(1, 1.0))])
    for step in range(0, 300, 10):
        metrics.add(BEGAN + step, [look(usage(1, 2.0 + step))])
    metrics.close()
    with sqlite3.connect(path) as raw:
        [(minutes, last)] = raw.execute("SELECT count(*), max(at) FROM minutes").fetchall()
    raw.close()
    assert (minutes, last) == (5, BEGAN + 240)


def test_a_clock_that_is_set_back_within_a_minute_makes_nothing_negative(path: Path) -> None:
    """Sabotage: make way for what comes later once a minute alone."""
    metrics, used = Metrics(path), 0.0
    for at in (0.0, 10.0, 20.0, 30.0, 5.0, 15.0, 25.0, 35.0):
        used += 5.0
        metrics.add(BEGAN + at, [look(usage(1, used))])
    metrics.close()
    found = rates(samples(path, BEGAN))
    assert [one.sample.at - BEGAN for one in found] == [5.0, 15.0, 25.0, 35.0]
    assert [one.cpu for one in found[1:]] == [0.5, 0.5, 0.5]


def test_a_counter_that_a_qemu_made_up_costs_nobody_else_a_look(path: Path) -> None:
    """Sabotage: add whatever it says to what it had said before. SQLite takes no such number, for any machine."""
    db = Uid("00000000-0000-5000-8000-000000000002")
    metrics = Metrics(path)
    metrics.add(BEGAN, [look(usage(1, 1.0, MOST))])
    for step in (10, 20):
        looks = [look(usage(2, 1.0, step)), look(usage(3, step), db, "db")]
        metrics.add(BEGAN + step, looks)
    metrics.close()
    assert [one.used.written_bytes for one in samples(path, BEGAN)] == [MOST, MOST, MOST]
    assert [one.used.cpu_seconds for one in samples(path, BEGAN, "db")] == [10.0, 20.0]


@pytest.mark.parametrize("interval", [1.0, 10.0, 60.0, 600.0])
def test_what_was_measured_lately_is_told_however_seldom_that_is(
    path: Path, interval: float
) -> None:
    """Sabotage: look back for a minute and a half alone. Whoever measures once a minute then sees it now and then."""
    metrics = Metrics(path)
    for step in range(4):
        metrics.add(BEGAN + step * interval, [look(usage(1, step * interval))])
    metrics.close()
    last = BEGAN + 3 * interval
    with closing(MetricsReader(path)) as reader:
        for now in (last, last + 0.99 * interval, last + 2 * interval):
            assert [one.cpu for one in rates(reader.recent(now)[WEB])] == [1.0, 1.0]
        assert reader.recent(last + 3 * interval + 90) == {}


# The file


def test_nobody_else_may_read_it(metrics: Metrics, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"no database at all\n" * 300, None], ids=["garbage", "a page"]
)
def test_a_damaged_file_is_made_anew(path: Path, content: bytes | None) -> None:
    metrics = Metrics(path)
    for step in range(0, 7200, 10):
        metrics.add(BEGAN + step, [look(usage(1, step))])
    metrics.close()
    if content is None:
        with path.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(os.urandom(3 * 4096))
    else:
        path.write_bytes(content)
    again = Metrics(path)
    again.add(BEGAN + 8000, [look(usage(1, 9000.0))])
    again.close()
    assert [one.used.cpu_seconds for one in samples(path, BEGAN)] == [9000.0]


def test_one_that_cannot_be_written_is_said_and_costs_no_sweep_but_its_own(path: Path) -> None:
    metrics = Metrics(path)
    metrics.add(BEGAN, [look(usage(1, 1.0))])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(MetricsUnusable, match="locked"):
        metrics.add(BEGAN + 10, [look(usage(2, 5.0))])
    holder.execute("ROLLBACK")
    holder.close()
    metrics.add(BEGAN + 20, [look(usage(2, 6.0))])
    metrics.close()
    assert [one.used.cpu_seconds for one in samples(path, BEGAN)] == [1.0, 7.0]


def test_where_nothing_was_ever_measured_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(MetricsUnusable, match="no agent has measured anything yet"):
        MetricsReader(tmp_path / "metrics.db")


def test_a_month_of_a_machine_takes_a_bounded_room(path: Path) -> None:
    """A quarter of a MiB for each machine, for ever: the file does not grow once it holds what is to be kept."""
    keep = Keep(looks=120, minutes=7200, hours=12 * 3600)
    metrics, sizes = Metrics(path, keep), []
    for step in range(0, 48 * 3600, 30):
        metrics.add(BEGAN + step, [look(usage(1, step, step << 20, step << 10))])
        if step % (12 * 3600) == 0:
            sizes.append(path.stat().st_size)
    metrics.close()
    assert sizes[-1] == sizes[-2] == sizes[-3]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1000)), max_size=30))
def test_what_was_used_never_falls(steps: list[tuple[int, float]]) -> None:
    used, before = Counters(), Counters()
    process, busy = 0, 0.0
    for another, seconds in steps:
        if another == 0:
            process, busy, before = process + 1, 0.0, used
        busy += seconds
        now = before.plus(Counters.of(usage(process, busy)))
        assert now.cpu_seconds >= used.cpu_seconds
        used = now


def test_two_looks_at_one_moment_are_no_rate() -> None:
    one = Sample(BEGAN, Counters(1.0), 1)
    assert rates([one, one]) == []
    assert isinstance(rates([one, Sample(BEGAN + 1, Counters(2.0), 1)])[0], Rate)
