"""Databases as every version so far has written them: each opens, and nothing that runs is touched for that."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from agent.jobs.told import job_item
from agent.paths import StatePaths
from agent.plan import plan
from agent.policy import Policy
from agent.source.directory import DirectorySource
from agent.status import status
from state.ledger import Ledger
from state.observed import Observed, RunState, Seen, Verdict, View
from state.records import Reader
from state.runs import RunPhase
from state.schema import KNOWN
from state.spec.resolved import VmSpec
from state.spec.resolved_job import JobSpec
from tests.builders import STATE_ID, moment

LEDGERS = Path(__file__).resolve().parents[1] / "fixtures" / "ledgers"
FIXTURES = sorted(LEDGERS.glob("*.db"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copy(request.param, tmp_path / "state.db"))


def test_what_this_version_writes_is_kept_for_those_to_come() -> None:
    assert KNOWN[-1] in {path.stem for path in FIXTURES}


def test_it_is_shown_before_an_agent_has_opened_it(older: Path) -> None:
    """Sabotage: read a column that was added later."""
    before = older.read_bytes()
    with closing(Reader.open(older)) as reader:
        told = status(reader, StatePaths(older.parent), agent_pid=None, alive=lambda _: True)
    phases = {item["name"]: item["phase"] for item in told["items"]}
    assert phases == {"web": "running", "db": "paused", "hello": "succeeded"}
    assert older.read_bytes() == before


def test_it_opens_with_everything_in_it(older: Path) -> None:
    with closing(Ledger(older)) as ledger:
        specs = {one.name: VmSpec.from_canonical(one.spec) for one in ledger.instances()}
        assert {name: (spec.memory, spec.power) for name, spec in specs.items()} == {
            "web": (256 << 20, "running"),
            "db": (512 << 20, "paused"),
        }
        [run] = ledger.runs()
        assert (run.phase, run.exit_code) == (RunPhase.SUCCEEDED, 0)
        assert JobSpec.from_canonical(run.spec).secrets == ("TOKEN",)
        assert job_item(run.name, run, None, None, StatePaths(older.parent))["exit_code"] == 0
        assert ledger.reader.events()
        assert ledger.reader.steps()
    Ledger(older).close()


def test_its_machines_are_what_the_same_documents_ask_for(older: Path) -> None:
    """Sabotage: compare digests alone, which change with every field that a spec gets."""
    desired = DirectorySource(LEDGERS / "tree", host="here").load(0.0)
    with closing(Ledger(older)) as ledger:
        paused = {"db": RunState.PAUSED}
        seen = tuple(
            Seen(one, Verdict.ALIVE, View(paused.get(one.name, RunState.RUNNING)), attached=True)
            for one in ledger.instances()
        )
        images = {VmSpec.from_canonical(one.spec).image: one.base for one in ledger.instances()}
        found = Observed(
            instances=seen, names=ledger.names(), images=images, runs=tuple(ledger.runs())
        )
    decided = plan(desired, found, Policy(STATE_ID, "tcg"), moment())
    assert decided.acting == ()
    assert {step.name for step in decided.steps} == {"web", "db", "hello"}
