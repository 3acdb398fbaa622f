"""Readiness by health checks, and what depends on it, on a host in memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import MonitorError
from state.ids import Name, Uid
from state.spec.resolved import Forward, HealthSpec, VmSpec
from tests.builders import desired, vm
from tests.memory.world import Lab

QUICK = HealthSpec("tcp", interval=0.01, timeout=5.0, failures=3, start_period=0.0, port=80)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state.db")


def web(health: HealthSpec = QUICK, **fields: object) -> VmSpec:
    return vm("web", health=health, **fields)


def ready(lab: Lab, name: str = "web") -> bool:
    return lab.instance(name).ready_at is not None


def unhealthy(lab: Lab) -> str:
    assert lab.ledger is not None
    return next((one.unhealthy for one in lab.ledger.instances() if one.name == "web"), "")


def reasons(lab: Lab, name: str = "web") -> list[str]:
    assert lab.ledger is not None
    return [event.reason for event in lab.ledger.reader.events(name=Name(name))]


async def test_time_without_an_agent_is_no_time_to_become_ready(lab: Lab) -> None:
    """Sabotage: count whoever becomes ready, whichever agent has seen its start."""

    def deafen(_: object) -> None:
        for guest in lab.host.guests.values():
            guest.deaf.add(80)

    slow = replace(QUICK, start_period=600.0)
    lab.told = deafen
    async with lab.killed():
        lab.edit(desired(web(slow)))
        await lab.until(lambda: "Created" in reasons(lab), "it runs")
        assert not ready(lab)
    lab.told = lambda _: None
    for guest in lab.host.guests.values():
        guest.deaf.clear()
    async with lab.running():
        await lab.until(lambda: ready(lab), "it is ready")
        lab.edit(desired(web(slow), replace(web(slow), name=Name("db"))))
        await lab.until(lambda: "Ready" in reasons(lab, "db"), "so is another")
    assert len(lab.became_ready) == 1


async def test_a_check_makes_ready_and_failures_in_a_row_unready(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(web()))
        await lab.settled()
        instance = lab.instance()
        assert ready(lab)
        guest = lab.host.guests[instance.uid]
        guest.deaf.add(80)
        await lab.until(lambda: not ready(lab), "it is not ready any more")
        assert lab.instance().unhealthy.startswith("tcp 80: the guest refuses the connection")
        guest.deaf.clear()
        await lab.until(lambda: ready(lab), "it is ready again")
        assert lab.instance().unhealthy == ""
        after = lab.instance()
        assert (after.process, after.restarts) == (instance.process, 0)
        assert reasons(lab).count("Unhealthy") == 1
        assert reasons(lab).count("Ready") == 2


async def test_fewer_failures_than_allowed_change_nothing(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(web()))
        await lab.settled()
        for _ in range(3):
            lab.host.failures["check"] = [MonitorError("silent"), MonitorError("silent")]
            await lab.until(lambda: not lab.host.failures["check"], "both were met")
            passed = lab.host.calls["check"]
            await lab.until(lambda since=passed: lab.host.calls["check"] > since + 1, "it passed")  # type: ignore[misc]
        assert reasons(lab).count("Ready") == 1
        assert "Unhealthy" not in reasons(lab)


async def test_failures_while_it_starts_do_not_count(lab: Lab) -> None:
    lab.host.boot_delay = 0.3
    async with lab.running():
        lab.edit(desired(web(replace(QUICK, start_period=3600.0))))
        await lab.until(lambda: lab.host.calls["check"] > 5, "it was asked often")
        assert lab.instance().unhealthy == ""
        await lab.until(lambda: ready(lab), "it is ready")
        assert "Unhealthy" not in reasons(lab)


async def test_one_that_never_serves_is_unhealthy_after_its_start_period(lab: Lab) -> None:
    lab.host.boot_delay = 3600.0
    async with lab.running():
        lab.edit(desired(web(replace(QUICK, start_period=0.05))))
        await lab.until(lambda: unhealthy(lab) != "", "it is told")
        assert lab.instance().unhealthy == "tcp 80: no answer"


async def test_an_answer_that_is_too_late_is_none(lab: Lab) -> None:
    lab.host.delays["check"] = 3600.0
    async with lab.running():
        lab.edit(desired(web(replace(QUICK, timeout=0.01))))
        await lab.until(lambda: unhealthy(lab) != "", "it is told")
        assert lab.instance().unhealthy == "tcp 80: no answer within 0.01 s"


async def test_one_by_ssh_is_asked_for_as_long_as_it_runs(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(web(replace(QUICK, check="ssh", port=None))))
        await lab.settled()
        lab.host.guests[lab.instance().uid].answers_at = lab.host.clock() + 3600
        await lab.until(lambda: not ready(lab), "it is not ready any more")
        assert lab.instance().unhealthy.startswith("ssh: ")


async def test_http_counts_by_its_status(lab: Lab) -> None:
    check = replace(QUICK, check="http", path="/ok", status=204)
    async with lab.running():
        lab.edit(desired(web(check)))
        await lab.until(lambda: unhealthy(lab) != "", "200 is not 204")
        assert lab.instance().unhealthy == "http 80 /ok: GET /ok was answered with 200, not 204"
        lab.host.guests[lab.instance().uid].statuses[80] = 204
        await lab.until(lambda: ready(lab), "it is ready")


async def test_another_check_is_asked_anew_and_none_means_ssh(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(web()))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.guests[uid].deaf.add(81)
        lab.edit(desired(web(replace(QUICK, port=81))))
        await lab.until(lambda: lab.instance().unhealthy.startswith("tcp 81"), "81 refuses")
        lab.edit(desired(vm("web")))
        await lab.settled()
        assert ready(lab)
        assert lab.instance().unhealthy == ""
        assert lab.instance().uid == uid


async def test_a_reset_of_its_own_makes_a_guest_unready_until_it_answers(lab: Lab) -> None:
    lab.host.boot_delay = 0.2
    async with lab.running():
        lab.edit(desired(vm("web")))
        await lab.settled()
        uid = lab.instance().uid
        lab.host.restart(uid)
        await lab.until(lambda: not ready(lab), "it is not ready any more")
        await lab.until(lambda: ready(lab), "it is ready again")
        assert lab.instance().uid == uid
        assert [one for one in reasons(lab) if one in ("Ready", "Rebooted")] == [
            "Ready", "Rebooted", "Ready",
        ]  # fmt: skip


async def test_a_reset_begins_a_new_start_period(lab: Lab) -> None:
    """Failures may pass until the reset is seen, and more than enough of them before it is up again."""
    later, patient = 0.0, replace(QUICK, start_period=60.0, failures=30)
    lab.host.clock = lambda: time.monotonic() + later
    async with lab.running():
        lab.edit(desired(web(patient)))
        await lab.settled()
        later = 3600.0  # its first start period is over
        lab.host.boot_delay = 1.0
        lab.host.restart(lab.instance().uid)
        await lab.until(lambda: not ready(lab), "it is not ready any more")
        await lab.until(lambda: ready(lab), "it is ready again")
        assert "Unhealthy" not in reasons(lab)


async def test_a_new_agent_believes_what_was_recorded_until_it_has_asked(lab: Lab) -> None:
    async with lab.running():
        lab.edit(desired(web()))
        await lab.settled()
        since = lab.instance().ready_at
        lab.host.guests[lab.instance().uid].deaf.add(80)
        await lab.until(lambda: not ready(lab), "it is not ready any more")
    async with lab.running():
        await lab.until(lambda: lab.host.calls["check"] > 0, "it is asked")
        assert lab.instance().unhealthy
        lab.host.guests[lab.instance().uid].deaf.clear()
        await lab.until(lambda: ready(lab), "it is ready again")
        assert lab.instance().ready_at != since


async def test_a_chain_is_started_one_after_the_other(lab: Lab) -> None:
    lab.host.boot_delay = 0.05
    order: list[Uid] = []
    names = [Name("app"), Name("db"), Name("lb")]
    app, db, _ = names
    async with lab.running():
        lab.edit(
            desired(
                vm("lb", depends_on=(app,)),
                vm("app", depends_on=(db,), health=QUICK),
                vm("db", ports=(Forward(8080, 80),)),
            )
        )
        while len(order) < 3:
            for name, uid in lab.uids().items():
                if uid not in order:
                    order.append(uid)
                    before = {"app": "db", "lb": "app"}.get(name)
                    assert before is None or ready(lab, before)
            await asyncio.sleep(0.002)
        await lab.settled()
        assert set(lab.uids()) == set(names)


async def test_after_a_reboot_the_order_is_kept(lab: Lab) -> None:
    db = Name("db")
    async with lab.running():
        lab.edit(desired(vm("app", depends_on=(db,)), vm("db")))
        await lab.settled()
        before = lab.uids()
    lab.host.reboot()
    lab.host.boot_delay = 0.2
    async with lab.running():
        await lab.until(lambda: set(lab.uids()) == {"db"}, "the first is back")
        assert not ready(lab, "db")
        await lab.settled()
        assert lab.uids() == before
