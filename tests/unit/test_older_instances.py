"""Directories of machines as every version so far has written them: where the ledger is lost, each is known again."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from agent.hypervisor.qemu.driver import QemuHypervisor
from agent.paths import StatePaths
from agent.plan import plan
from agent.policy import Policy
from agent.recover import recover
from agent.steps import Destroy, Replace
from state.ids import Uid
from state.ledger import Ledger
from state.observed import Observed, RunState, Seen, Verdict, View
from state.schema import KNOWN
from state.spec.resolved import VmSpec
from tests.builders import STATE_ID, desired, moment

INSTANCES = Path(__file__).resolve().parents[1] / "fixtures" / "instances"
FIXTURES = sorted(INSTANCES.glob("*.json"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> StatePaths:
    """A state directory with that machine's and nothing else."""
    text = request.param.read_text().replace("/var/lib/holdfast", str(tmp_path))
    paths = StatePaths(tmp_path)
    mine = paths.instance(Uid(json.loads(text)["machine"]["uid"]))
    mine.directory.mkdir(parents=True)
    mine.description.write_text(text)
    mine.disk.touch()
    return paths


def test_what_this_version_writes_is_kept_for_those_to_come() -> None:
    assert FIXTURES
    assert KNOWN[-1] >= max(path.stem for path in FIXTURES)


async def test_a_lost_ledger_is_filled_from_it_and_nothing_is_made_anew(older: StatePaths) -> None:
    """Sabotage: understand the words of this version alone, such as of a field that is new."""
    hypervisor = QemuHypervisor(older, STATE_ID)
    await hypervisor.open(lambda _uid, _word: None)
    with closing(Ledger(older.database)) as ledger:
        await recover(ledger, hypervisor, moment, [])
        [instance] = ledger.instances()
        spec = VmSpec.from_canonical(instance.spec)
        assert (instance.name, instance.generation, spec.memory) == ("web", 1, 128 << 20)
        assert [(one.host, one.guest) for one in instance.forwards] == [(18080, 80)]
        assert spec.stop_timeout == 5.0
        assert dict(spec.labels) == {"tier": "edge"}
        view = View(RunState.RUNNING)
        seen = Seen(instance, Verdict.ALIVE, view, attached=True)
        found = Observed(
            instances=(seen,), names=ledger.names(), images={spec.image: instance.base}
        )
        decided = plan(desired(spec), found, Policy(STATE_ID, "tcg"), moment())
    assert not [step for step in decided.steps if isinstance(step, Destroy | Replace)]
    await hypervisor.close()
