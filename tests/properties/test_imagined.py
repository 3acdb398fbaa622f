"""A host that is as its documents say has nothing to do."""

from __future__ import annotations

from hypothesis import given

from agent.imagined import imagined
from agent.plan import plan
from state.desired import Desired
from state.observed import Observed
from tests.builders import moment
from tests.strategies import POLICY, worlds


@given(worlds())
def test_nothing_is_to_be_done_where_everything_is_as_it_is_wanted(
    some: tuple[Desired, Observed],
) -> None:
    """Sabotage: imagine a paused vm running."""
    wanted, _ = some
    found = plan(wanted, imagined(wanted, wanted, POLICY, moment()), POLICY, moment())
    assert found.acting == ()
    assert found.fetches == ()
    kept = {step.name for step in found.steps if step.action == "keep"}
    assert kept == wanted.vms.keys()
