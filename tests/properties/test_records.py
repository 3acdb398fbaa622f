"""What goes into the ledger comes out of it. Each property names the sabotage that it was seen to catch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.desired import SourceRef
from state.history import Event, Finding
from state.ids import Digest, Name, Process, Uid
from state.ledger import Ledger
from state.lifecycle import Cause, Phase
from state.observed import BaseImage, Instance, Retry
from state.records import instance_of, instance_row
from state.spec.resolved import Forward
from tests.builders import instance
from tests.strategies import NAMES, specs

# SQLite keeps UTF-8, which lone surrogates are not; it turns text into numbers where a column's type asks for it.
text = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["007", "1e3", "0"])
moments = st.floats(0, 4e9)
digests = st.integers(0, (1 << 256) - 1).map(lambda number: Digest(f"sha256:{number:064x}"))
paths = text.filter(lambda said: "\0" not in said).map(lambda said: Path("/") / said)
ports = st.integers(1, 65535)
forwards = st.builds(Forward, ports, ports, st.ip_addresses(v=4).map(str))
processes = st.builds(Process, text, st.integers(1, 1 << 22), st.just(0) | st.integers(0, 1 << 60))
bases = st.builds(
    BaseImage, paths, st.sampled_from(["qcow2", "raw"]), st.integers(0, 1 << 60), digests
)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    spec = draw(specs(NAMES[0]))
    return Instance(
        uid=Uid(draw(st.uuids().map(str))),
        name=Name(draw(text)),
        generation=draw(st.integers(1, 1 << 40)),
        phase=draw(st.sampled_from(Phase)),
        cause=draw(st.sampled_from(Cause)),
        spec=replace(spec, user_data=draw(st.none() | text)).canonical(),
        spec_digest=draw(digests),
        base=draw(bases),
        accelerator=draw(text),
        source=SourceRef(draw(text), draw(st.integers(0, 1 << 30)), draw(st.none() | text)),
        created_at=draw(moments),
        process=draw(st.none() | processes),
        forwards=tuple(draw(st.lists(forwards, max_size=4))),
        ssh_port=draw(st.none() | ports),
        run_as=draw(st.none() | st.integers(0, (1 << 32) - 2)),
        started_at=draw(st.none() | moments),
        ready_at=draw(st.none() | moments),
        restarts=draw(st.integers(0, 1 << 30)),
        detail=draw(text),
    )


@given(instances(), text)
def test_an_instance_comes_out_of_its_row_and_of_its_own_file_as_it_went_in(
    one: Instance, qmp: str
) -> None:
    """Sabotage: take 0 for none (`if row["ssh_port"]`), leave a forward's address out, put a Path into the row."""
    row = instance_row(one, qmp=qmp)
    assert row["qmp"] == qmp
    assert instance_of(row) == one
    assert instance_of(json.loads(json.dumps(row))) == one


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all examples, each of which takes back what it said."""
    with closing(Ledger(tmp_path_factory.mktemp("records") / "state.db")) as opened:
        yield opened


@given(one=instances(), retry=st.builds(Retry, text, text, st.integers(0, 99), moments, text, text))
def test_sqlite_gives_back_what_it_was_given(ledger: Ledger, one: Instance, retry: Retry) -> None:
    """Sabotage: give a column of the table the wrong type, so that SQLite turns text into numbers."""
    with ledger.transaction() as change:
        change.put_instance(one)
        change.put_retry(retry)
    found = ledger.reader.instances(), ledger.reader.retries()
    with ledger.transaction() as change:
        change.remove_instance(one.uid)
        change.remove_retry(retry.key)
    assert found == ([one], {retry.key: retry})


@given(said=st.lists(st.builds(Event, moments, text, text, st.none() | text.map(Name)), max_size=5))
def test_events_come_out_in_the_order_they_happened(ledger: Ledger, said: list[Event]) -> None:
    """Sabotage: order them by time."""
    before = max((one.id for one in ledger.reader.events()), default=0)
    with ledger.transaction() as change:
        for event in said:
            change.event(event)
    assert [replace(one, id=0) for one in ledger.reader.events(after=before)] == said


@given(
    finding=st.builds(
        Finding, text, text, text, st.none() | text, st.none() | text.map(Name), st.none() | text
    ),
    key=text,
)
def test_a_finding_comes_out_under_its_key(ledger: Ledger, finding: Finding, key: str) -> None:
    """Sabotage: leave a column out of the row."""
    with ledger.transaction() as change:
        change.put_finding(key, finding)
    found = ledger.reader.findings()
    with ledger.transaction() as change:
        change.remove_finding(key)
    assert found == {key: finding}


def test_a_row_has_exactly_the_columns_of_its_table(ledger: Ledger) -> None:
    columns = {row[1] for row in ledger._connection.execute("PRAGMA table_info(instances)")}
    assert set(instance_row(instance(), qmp="")) == columns
