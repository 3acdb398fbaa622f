"""The life of a VM on real QEMU with a guest that answers: each change, and what `plan` said of it before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from typing import Any

import pytest

from tests.e2e.confinement import (
    assert_confined,
    assert_listens_only_on,
    assert_no_secret_in_argv,
    assert_state_private,
)
from tests.e2e.site import DEADLINE, Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(400)]


def host_key(port: int) -> str:
    """What whoever listens there shows, as ssh-keyscan tells it."""
    told = subprocess.run(
        ["ssh-keyscan", "-T", "20", "-t", "ed25519", "-p", str(port), "127.0.0.1"],
        capture_output=True,
        check=True,
    )
    return told.stdout.decode().split(" ", 1)[1].strip()


def test_a_document_becomes_a_confined_vm_that_answers_and_its_deletion_ends_it(tiny: Site) -> None:
    tiny.vm("other")
    with tiny.agent():
        tiny.ready("other")
        ends(tiny, lives(tiny))
        assert tiny.item("other")["ready"]


def lives(place: Site, memory: str = "128MiB", more: str = "") -> dict[str, Any]:
    """A VM `web`, from the document that asks for it until it answers, confined; its item. An agent runs."""
    place.vm("web", memory=memory, more=f"labels: {{tier: edge}}\n{more}")
    item = place.ready("web")
    assert item["phase"] == "running"
    assert item["labels"] == {"tier": "edge"}
    assert place.ssh("web", "uname -s; hostname").split() == ["Linux", "web"]
    failing = place.call("ssh", "web", "--", "echo out; echo err >&2; exit 7")
    assert (failing.returncode, failing.stdout, failing.stderr) == (7, b"out\n", b"err\n")

    pid = item["pid"]
    run_as = next(one.run_as for one in place.instances() if one.uid == item["uid"])
    assert_confined(pid, run_as=run_as)
    assert_listens_only_on(pid, item["ssh"]["port"])
    assert_state_private(place.paths)
    keys = [path.read_text() for path in place.paths.keys.rglob("*") if path.is_file()]
    assert_no_secret_in_argv(pid, [line for key in keys for line in key.splitlines()])
    assert sorted(place.processes().values()) == sorted(one.uid for one in place.instances())
    return item


def ends(place: Site, item: dict[str, Any]) -> None:
    """That VM, once no document asks for it any more."""
    pid = item["pid"]
    assert pid in place.processes()
    place.delete("web")
    place.until(lambda: pid not in place.processes(), "the process is gone")
    place.until(lambda: not place.item("web"), "the name is forgotten")
    assert not place.paths.instance(item["uid"]).directory.exists()


def test_changed_memory_replaces_and_keeps_the_ssh_port_and_the_host_key(tiny: Site) -> None:
    tiny.vm("web")
    with tiny.agent():
        before = tiny.ready("web")
        key = host_key(before["ssh"]["port"])
    tiny.vm("web", memory="256MiB")
    assert tiny.plan() == [("replace", "web")]
    with tiny.agent():
        after = tiny.ready("web", generation=before["generation"] + 1)
        assert after["uid"] != before["uid"]
        assert after["ssh"]["port"] == before["ssh"]["port"]
        assert host_key(after["ssh"]["port"]) == key
        assert tiny.processes() == {after["pid"]: after["uid"]}
        assert not tiny.paths.instance(before["uid"]).directory.exists()
        assert tiny.plan() == []
        assert int(tiny.ssh("web", "grep MemTotal /proc/meminfo").split()[1]) > 128 << 10


def test_a_broken_edit_holds_the_vm_and_the_others_go_on(still: Site) -> None:
    still.vm("web")
    with still.agent():
        before = still.ready("web")
        still.write("web.yaml", "api: holdfast/v1\nkind: vm\nname: web\nmemry: 1GiB\n")
        still.vm("new")
        assert [one for one in still.plan() if one[1] == "web"] == []
        held = still.until(lambda: still.status()["held"], "it is held")
        assert (held[0]["name"], held[0]["file"], held[0]["line"]) == ("web", "web.yaml", 4)
        assert "memory" in held[0]["message"]
        still.ready("new")
        assert before["pid"] in still.processes()


def test_a_missing_and_an_emptied_tree_destroy_nothing(still: Site) -> None:
    still.vm("web")
    elsewhere = still.desired.with_name("elsewhere")
    with still.agent():
        before = still.ready("web")
        still.desired.rename(elsewhere)
        still.until(lambda: still.waits() == {"web": "AbsenceUnproven"}, "it is held")
        elsewhere.rename(still.desired)
        still.until(lambda: not still.waits(), "it is held no more")
        for path in still.desired.iterdir():
            path.unlink()
        still.until(lambda: still.waits() == {"web": "AbsenceUnproven"}, "it is held again")
        assert still.processes() == {before["pid"]: before["uid"]}
    still.kill(before["pid"])
    still.desired.rename(elsewhere)
    with still.agent():
        # As after a boot of the host at which the tree is not mounted yet.
        assert still.ready("web", restarts=1)["uid"] == before["uid"]


def test_a_killed_agent_leaves_its_vms_and_the_next_adopts_them(tiny: Site) -> None:
    tiny.vm("web")
    tiny.vm("db")
    first = tiny.start()
    try:
        before = {name: tiny.ready(name) for name in ("web", "db")}
    finally:
        first.kill()
        first.wait(DEADLINE)
    pids = {item["pid"] for item in before.values()}
    assert set(tiny.processes()) == pids
    assert tiny.plan() == [("adopt", "db"), ("adopt", "web")]
    with tiny.agent():
        tiny.until(lambda: tiny.status()["agent"]["running"], "the next one runs")
        tiny.until(lambda: "Adopted" in tiny.log(), "it adopts")
        assert set(tiny.processes()) == pids
        for name, old in before.items():
            now = tiny.item(name)
            same = ("pid", "uid", "started_at", "restarts", "ready", "ssh")
            assert [now[key] for key in same] == [old[key] for key in same]
        assert tiny.plan() == []
        assert tiny.ssh("web", "hostname").strip() == "web"


def test_a_killed_qemu_comes_back_from_its_own_disk(tiny: Site) -> None:
    tiny.vm("web")
    with tiny.agent():
        before = tiny.ready("web")
        tiny.ssh("web", "echo kept > /persist/mark && sync")
        # Whoever is connected keeps no port from being had again.
        with socket.create_connection(("127.0.0.1", before["ssh"]["port"])):
            tiny.kill(before["pid"])
            after = tiny.ready("web", restarts=1)
        assert after["uid"] == before["uid"]
        assert after["pid"] != before["pid"]
        assert after["ssh"] == before["ssh"]
        assert tiny.ssh("web", "cat /persist/mark") == "kept\n"


def test_a_qemu_that_died_while_no_agent_ran_is_restarted_as_planned(still: Site) -> None:
    still.vm("web")
    with still.agent():
        before = still.ready("web")
    still.kill(before["pid"])
    still.until(lambda: still.item("web")["phase"] == "crashed", "it is gone")
    assert still.plan() == [("restart", "web")]
    with still.agent():
        assert still.ready("web", restarts=1)["uid"] == before["uid"]


def test_a_burst_of_edits_ends_in_the_last_one(still: Site) -> None:
    with still.agent():
        for megabytes in range(129, 149):
            still.vm("web", memory=f"{megabytes}MiB")
        still.until(still.instances, "it is made")

        def last_one_runs() -> bool:
            own = [json.loads(one.spec)["memory"] for one in still.instances()]
            return own == [148 << 20] and still.item("web").get("ready", False)

        still.until(last_one_runs, "the last edit is what runs")
        assert len(still.processes()) == 1
        assert still.plan() == []


def test_power_and_restart_are_obeyed(tiny: Site) -> None:
    tiny.vm("web")
    with tiny.agent():
        before = tiny.ready("web")
        tiny.vm("web", more="power: paused")
        tiny.until(lambda: tiny.item("web")["phase"] == "paused", "paused")
        tiny.vm("web", more="power: stopped")
        tiny.until(lambda: tiny.item("web")["phase"] == "stopped", "stopped")
        assert tiny.processes() == {}
        tiny.vm("web", more="restart: on_failure")
        running = tiny.ready("web")
        assert running["uid"] == before["uid"]
        tiny.call("ssh", "web", "--", "poweroff")
        tiny.until(lambda: tiny.item("web")["reason"] == "GuestPoweredOff", "seen as a poweroff")
        assert tiny.processes() == {}


def test_a_stopped_process_is_unresponsive_and_not_doubled(still: Site) -> None:
    still.vm("web")
    still.vm("db")
    with still.agent():
        before = still.ready("web")
        still.ready("db")
        os.kill(before["pid"], signal.SIGSTOP)
        try:
            still.until(lambda: still.item("web")["phase"] == "unresponsive", "said so", 15)
            still.vm("db", memory="160MiB")
            still.ready("db", generation=2)
            assert list(still.processes().values()).count(before["uid"]) == 1
        finally:
            os.kill(before["pid"], signal.SIGCONT)
        still.until(lambda: still.item("web")["phase"] == "running", "and back")
        assert still.item("web")["pid"] == before["pid"]


def test_what_qemu_says_of_a_failed_start_is_the_reason(still: Site) -> None:
    still.vm("web", more="ports: [{host: 8080, guest: 80, address: 192.0.2.1}]")
    with still.agent():
        item = still.until(
            lambda: (item := still.item("web")) and item["reason"] == "BackOff" and item,
            "it waits",
        )
        assert "Could not set up host forwarding rule 'tcp:192.0.2.1:8080-:80'" in item["message"]
        still.vm("web")
        still.ready("web")


def test_a_taken_port_names_its_owner(still: Site) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        still.vm("web", more=f"ports: [{{host: {port}, guest: 80}}]")
        told = still.call(
            "plan", "--desired", str(still.desired), "--image-root", str(still.image.parent)
        )
        assert f"port {port} of 127.0.0.1 is taken by" in told.stdout.decode()
        assert f"(pid {os.getpid()})" in told.stdout.decode()


def test_a_database_that_is_lost_emptied_or_damaged_loses_no_vm(still: Site) -> None:
    """Sabotage: refuse to start on a damaged database, or believe an empty one."""
    still.vm("web")
    database = still.paths.database

    def removed() -> None:
        for path in database.parent.glob("state.db*"):
            path.unlink()

    def emptied() -> None:
        removed()
        database.touch()

    def damaged() -> None:
        whole = database.read_bytes()
        database.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))

    def cut() -> None:
        os.truncate(database, database.stat().st_size // 2)

    def no_database() -> None:
        database.write_text("notes\n")

    with still.agent():
        before = still.ready("web")
    for ruin in (removed, emptied, damaged, cut, no_database):
        ruin()
        with still.agent():
            after = still.ready("web")
            kept = ("pid", "uid", "ssh", "generation")
            assert [after[key] for key in kept] == [before[key] for key in kept], ruin
            assert still.processes() == {before["pid"]: before["uid"]}
    aside = [one["message"] for one in still.events() if one["reason"] == "DatabaseSetAside"]
    assert len(aside) == 1, "each new database begins with what became of the last"
    assert "is kept as state.db.damaged-3, and a new one is filled" in aside[0]


def test_a_database_that_is_taken_away_under_its_agent_ends_that_and_loses_no_vm(
    still: Site,
) -> None:
    """Sabotage: go on writing into a file that has no name any more."""
    still.vm("web")
    process = still.start()
    try:
        before = still.ready("web")
        still.paths.database.unlink()
        still.vm("web", more="labels: {tier: edge}")
        assert process.wait(DEADLINE) == 1
        assert "the state database was taken away or replaced" in still.log()
    finally:
        process.kill()
    with still.agent():
        after = still.ready("web", labels={"tier": "edge"})
        assert (after["pid"], after["uid"]) == (before["pid"], before["uid"])


def test_a_replacement_that_qemu_refuses_costs_neither_the_machine_nor_its_disk(
    still: Site,
) -> None:
    """Sabotage: end the old machine before the new one has shown that it can run."""
    still.vm("web")
    with still.agent():
        before = still.ready("web")
        disk = still.paths.instance(before["uid"]).disk
        lies = disk.stat().st_ino
        elsewhere = "ports: [{host: 8080, guest: 80, address: 192.0.2.1}]"
        still.vm("web", memory="160MiB", more=elsewhere)
        told = still.until(
            lambda: (item := still.item("web"))["reason"] == "BackOff" and item, "it was tried"
        )
        assert "192.0.2.1" in told["message"]
        assert (told["pid"], told["phase"], told["ready"]) == (before["pid"], "running", True)
        assert still.processes() == {before["pid"]: before["uid"]}
        still.kill(before["pid"])
        again = still.ready("web", restarts=1)
        assert (again["uid"], again["generation"]) == (before["uid"], 1)
        assert disk.stat().st_ino == lies
        still.vm("web", memory="1024GiB")
        told = still.until(
            lambda: (item := still.item("web"))["reason"] == "NotEnoughMemory" and item, "refused"
        )
        assert "more than this host has" in told["message"]
        assert still.item("web")["pid"] == again["pid"]
        still.vm("web")
        still.until(lambda: still.item("web")["reason"] == "Running", "as it was")
        assert (still.item("web")["pid"], len(still.instances())) == (again["pid"], 1)
