"""One beat for many: who joins is looked at, who has left is not, and nothing beats for nobody."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from agent.hypervisor.qemu.rounds import Rounds
from tests.waiting import eventually


async def test_who_joins_is_looked_at_at_once_and_again_until_it_leaves() -> None:
    rounds = Rounds(0.01)
    seen: dict[str, int] = {"one": 0, "other": 0}

    def looker(name: str) -> None:
        seen[name] += 1

    with ExitStack() as stack:
        stack.enter_context(rounds.joined(lambda: looker("one")))
        assert seen == {"one": 1, "other": 0}
        with rounds.joined(lambda: looker("other")):
            await eventually(lambda: min(seen.values()) > 2, "both are looked at")
        left = seen["other"]
        await eventually(lambda: seen["one"] > 10, "the rounds go on")
        assert seen["other"] == left
    assert rounds._timer is None


async def test_a_look_that_makes_another_leave_or_join_breaks_no_round() -> None:
    rounds = Rounds(0.01)
    with ExitStack() as stack:
        others = [stack.enter_context(ExitStack()) for _ in range(2)]
        looked: list[int] = []
        others[0].enter_context(rounds.joined(lambda: looked.append(0)))

        def exchange() -> None:
            others[0].close()
            if len(looked) < 5:
                others[1].enter_context(rounds.joined(lambda: looked.append(1)))

        await asyncio.sleep(0)
        stack.enter_context(rounds.joined(lambda: exchange() if looked else None))
        await eventually(lambda: looked.count(1) > 5, "the new ones are looked at")
