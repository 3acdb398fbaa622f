"""What `holdfast plan` prints is what `holdfast run` then does: edit by edit, on real QEMU, against the ledger."""

from __future__ import annotations

import pytest

from state.records import Reader
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(500)]


def steps_done(site: Site, after: int) -> list[tuple[int, str, str]]:
    """The steps that were carried out since, from the ledger."""
    reader = Reader.open(site.paths.database)
    try:
        return [
            (one.id, one.action, one.name)
            for one in reader.steps(last=1000)
            if one.id > after and one.outcome == "done"
        ]
    finally:
        reader.close()


def test_every_plan_is_carried_out_to_the_letter(still: Site, free_ports: list[int]) -> None:
    last = 0

    def planned_and_done() -> list[tuple[str, str]]:
        """Plan, run once, and compare; what was done beyond adopting what ran."""
        nonlocal last
        plan = still.plan()
        assert still.start("--once").wait(300) in (0, 1), still.log()
        done = steps_done(still, last)
        last = done[-1][0] if done else last
        assert sorted(plan) == sorted((action, name) for _, action, name in done)
        again = [step for step in still.plan() if step[0] != "adopt"]
        assert again == [], "a second look finds nothing left to do"
        return [step for step in plan if step[0] != "adopt"]

    still.vm("web")
    still.vm("db")
    assert planned_and_done() == [("create", "db"), ("create", "web")]
    pids = {item["name"]: item["pid"] for item in still.status()["items"]}

    still.vm("web", more="labels: {tier: edge}")
    assert planned_and_done() == [("update", "web")]
    still.vm("web", more=f"labels: {{tier: edge}}\nports: [{{host: {free_ports[0]}, guest: 80}}]")
    assert planned_and_done() == [("update", "web")]
    assert still.item("web")["pid"] == pids["web"]

    still.write("web.yaml", "api: holdfast/v1\nkind: vm\nname: web\nmemry: 1GiB\n")
    assert planned_and_done() == []
    assert still.item("web")["pid"] == pids["web"]

    still.vm("web", memory="160MiB")
    still.delete("db")
    assert planned_and_done() == [("destroy", "db"), ("replace", "web")]
    replaced = still.item("web")
    assert replaced["pid"] != pids["web"]
    assert list(still.processes()) == [replaced["pid"]]

    still.kill(replaced["pid"])
    still.until(lambda: not still.processes(), "it is gone")
    assert planned_and_done() == [("restart", "web")]
    assert still.item("web")["uid"] == replaced["uid"]

    still.vm("web", memory="160MiB", more="power: stopped")
    assert planned_and_done() == [("update", "web")]
    assert still.processes() == {}

    (still.desired / "web.yaml").rename(still.desired / "web.elsewhere")
    images = still.desired / "images.yaml"
    images.rename(still.desired / "images.elsewhere")
    assert planned_and_done() == [], "an emptied tree destroys nothing"
    assert still.item("web")["uid"] == replaced["uid"]
