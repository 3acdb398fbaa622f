"""Agents that are killed at any moment of a create, a replace or a destroy, or that start at the same instant."""

from __future__ import annotations

import json
import os
import random
import resource
import secrets
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from state.lifecycle import Phase
from tests.e2e.site import DEADLINE, ROOT, Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(1 << 32))
"""Of the random moments; a failure prints it."""
KILLS = 5
AT_ONCE = 20


def test_kills_at_random_moments_leave_exactly_what_is_wanted(still: Site) -> None:
    print(f"HOLDFAST_SEED={SEED}")
    chance = random.Random(SEED)  # noqa: S311 - moments, no secrets
    still.vm("steady")
    with still.agent():
        steady = still.ready("steady")
    disk = still.paths.instance(steady["uid"]).disk.stat().st_ino
    memory = 0
    for number in range(KILLS):
        if memory and chance.random() < 0.4:
            memory = 0
            still.delete("web")
        else:
            memory = 128 + number
            still.vm("web", memory=f"{memory}MiB", more="stop_timeout: 1s")
        for _ in range(chance.randint(1, 3)):
            kill_at_some_moment(still, chance)
        adopted = still.log().count("Adopted")
        with still.agent():
            still.until(lambda: still.log().count("Adopted") > adopted, "the next one runs")  # noqa: B023
            still.until(lambda: as_wanted(still, memory), f"round {number} has converged")  # noqa: B023
        assert still.item("steady")["pid"] == steady["pid"]
        assert still.paths.instance(steady["uid"]).disk.stat().st_ino == disk


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_what_ends_a_terminal_ends_no_vm(still: Site, how: signal.Signals) -> None:
    """Ctrl-C and a hang-up go to every process of the terminal's group. Sabotage: start QEMU in the agent's session."""
    still.vm("web")
    with still.open("run", *still.source(), start_new_session=True) as agent:
        before = still.ready("web")
        os.killpg(agent.pid, how)
        agent.communicate(timeout=DEADLINE)
        assert agent.returncode in (0, -signal.SIGHUP)
    assert list(still.processes()) == [before["pid"]]
    with still.agent():
        assert still.ready("web")["pid"] == before["pid"]


def test_an_agent_without_descriptors_to_spare_harms_nobody_and_goes_on_when_it_has_some(
    still: Site,
) -> None:
    """Sabotage: take a process that could not be looked at for one that is gone."""
    still.vm("web")
    with still.agent() as agent:
        before = still.ready("web")
        limits = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        used = {int(one) for one in os.listdir(f"/proc/{agent.pid}/fd")}
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (max(used) + 2, limits[1]))
        still.vm("db")
        still.until(lambda: "Too many open files" in json.dumps(still.status()), "it is told")
        assert agent.poll() is None, still.log()
        assert still.item("web")["pid"] == before["pid"]
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, limits)
        still.ready("db")
        after = still.ready("web")
        assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])


def kill_at_some_moment(place: Site, chance: random.Random) -> None:
    """Mostly while it acts, which it does as soon as it adopts what runs; now and then at any moment."""
    adopted = place.log().count("Adopted")
    agent = place.start()
    if chance.random() < 0.7:
        place.until(lambda: place.log().count("Adopted") > adopted, "it acts")
    with suppress(subprocess.TimeoutExpired):
        agent.wait(chance.uniform(0.0, 0.8))
    agent.kill()
    assert agent.wait(DEADLINE) == -signal.SIGKILL, "it ended by itself"


def as_wanted(place: Site, memory: int) -> bool:
    """Whether `steady` and, with so many MiB or not at all, `web` run, and nothing else is there: no other process, no
    directory of another instance, no socket, nothing half made."""
    instances = place.instances()
    wanted = {"steady", *(["web"] if memory else [])}
    uids = {one.uid for one in instances}
    running = {one.process.pid: one.uid for one in instances if one.process}
    return (
        len(instances) == len(wanted)
        and {one.name for one in instances} == wanted
        and all(one.phase is Phase.RUNNING for one in instances)
        and all(f'"memory":{memory << 20}' in one.spec for one in instances if one.name == "web")
        and place.processes() == running
        and set(os.listdir(place.paths.instances)) == uids
        and set(os.listdir(place.paths.sockets)) == {*uids, place.paths.api_socket.name}
        and not [path for path in place.state.rglob(".*") if path.is_file()]
        and place.plan() in ([], [("adopt", name) for name in sorted(wanted)])
    )


def test_of_agents_that_start_at_the_same_instant_one_wins_and_the_other_names_it(
    still: Site,
) -> None:
    for number in range(AT_ONCE):
        # Every other time on a directory that both have to make, with what is above it.
        state = still.state.parent / f"{number // 2}" / "made" / "state"
        logs = [still.state.parent / f"{number}-{one}.log" for one in (1, 2)]
        both = [started(still, state, log) for log in logs]
        try:
            still.until(lambda: any(one.poll() is not None for one in both), "one leaves")  # noqa: B023
            [loser] = [one for one in both if one.poll() is not None]
            [winner] = [one for one in both if one is not loser]
            said = logs[both.index(loser)].read_text()
            assert loser.returncode == 75, said
            assert said.startswith("holdfast: the state directory "), said
            assert f"held by another agent, pid {winner.pid} (" in said
            assert len(said.splitlines()) == 1
            assert winner.poll() is None
            winner.terminate()
            # The signal may come before it listens for any.
            assert winner.wait(DEADLINE) in (0, -signal.SIGTERM)
            assert "holdfast:" not in logs[both.index(winner)].read_text()
        finally:
            for one in both:
                one.kill()
                one.wait(DEADLINE)


def started(place: Site, state: Path, log: Path) -> subprocess.Popen[bytes]:
    words = [
        *place.words("run"),
        "--state",
        str(state),
        "--desired",
        str(place.desired),
        "--accel",
        "tcg",
    ]
    with log.open("wb") as file:
        return subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file)


def test_an_agent_whose_log_nobody_reads_any_more_goes_on(still: Site) -> None:
    """Whoever piped its standard error is gone. Sabotage: let a line that cannot be written end what says it."""
    still.vm("web")
    with still.open("run", *still.source()) as agent:
        before = still.ready("web")
        for pipe in (agent.stdout, agent.stderr):
            assert pipe is not None
            pipe.close()
        still.vm("db")
        db = still.ready("db")
        still.kill(db["pid"])
        still.ready("db", restarts=1)
        assert agent.poll() is None
        assert still.item("web")["pid"] == before["pid"]
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(DEADLINE) == 0
    assert len(still.processes()) == 2
