"""A secret of the host reaches the script that may have it, and stands nowhere else where it could be read."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import NO_RETRIES, Jobs
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(600)]

ASKS = ("secrets: [TOKEN, KEY]", NO_RETRIES, "artifacts: [/root/seen]")
SCRIPT = """\
echo "token $TOKEN"
i=0; while [ $i -lt 50 ]; do printf %s "$TOKEN"; i=$((i+1)); done; echo
printf '%s\\n' "$KEY" | sed 's/^/  > /'
printf %s "${TOKEN%??????}"; sleep 1; printf '%s\\n' "${TOKEN#${TOKEN%??????}}"
stat -c 'mode %a' "$(ls -d ~/.holdfast/*/env)"
printf %s "$TOKEN$KEY" | wc -c >/root/seen
while [ ! -e /root/go ]; do sleep 0.1; done
"""
"""Prints it plain, many times without a line's end, indented, and in two pieces; stays until it is told to go."""


class Canary:
    """Values that are to be found nowhere."""

    def __init__(self, site: Site) -> None:
        self.token = "canary-" + secrets.token_hex(12)
        self.lines = [f"canary-{secrets.token_hex(20)}" for _ in range(3)]
        place = site.state.parent
        self.files = [place / "key", place / "secrets.yaml"]
        self.files[0].write_text("\n".join(self.lines) + "\n")
        self.files[1].write_text(
            f"TOKEN: {{environment: CANARY_TOKEN, jobs: ['deploy-*']}}\n"
            f"KEY: {{file: {self.files[0]}, jobs: [deploy-web]}}\n"
        )
        for one in self.files:
            one.chmod(0o600)

    @property
    def words(self) -> list[bytes]:
        plain = [one.encode() for one in (self.token, *self.lines)]
        return [*plain, *(base64.b64encode(one)[:24] for one in plain)]

    def found_in(self, root: Path) -> list[str]:
        """Below the directory, in the bytes of every file."""
        return self._said_in(
            path for path in root.rglob("*") if path.is_file() and path not in self.files
        )

    def said_by(self, pid: int | str, *what: str) -> list[str]:
        return self._said_in(Path(f"/proc/{pid}/{one}") for one in what)

    def said_by_anybody(self, what: str) -> list[str]:
        """By all processes of this machine."""
        pids = filter(str.isdigit, os.listdir("/proc"))
        return [one for pid in pids for one in self.said_by(pid, what)]

    def _said_in(self, sources: Iterable[Path]) -> list[str]:
        """What is gone while it is looked at (a process that ends, a temporary file) says nothing."""
        found = []
        for one in sources:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += [str(one)] if any(w in one.read_bytes() for w in self.words) else []
        return found


def test_a_secret_of_the_host_is_in_the_script_and_nowhere_else(
    tiny: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: keep the environment in the run's record; mask nothing but whole values."""
    jobs, canary = Jobs(tiny), Canary(tiny)
    monkeypatch.setenv("CANARY_TOKEN", canary.token)
    jobs.write("deploy-web", SCRIPT, *ASKS)
    with tiny.agent("--secrets", str(canary.files[1])):
        jobs.says("deploy-web", "mode 600")
        [pid] = tiny.processes()
        assert canary.said_by(pid, "cmdline", "environ") == []
        assert canary.found_in(tiny.state.parent) == []
        assert canary.said_by_anybody("cmdline") == []
        for words in (["status", "-o", "json"], ["explain", "deploy-web"], ["events"]):
            assert not any(word in tiny.call(*words).stdout for word in canary.words)
        assert tiny.call("ssh", "deploy-web", "--", "touch /root/go").returncode == 0
        run = jobs.ended("deploy-web", RunPhase.SUCCEEDED, "Succeeded", 0)
    said = jobs.log("deploy-web").splitlines()
    assert "token ***" in said
    assert said.count("  > ***") == len(canary.lines)
    assert "***" in said, "in many copies as in two pieces it is hidden as one"
    seen = tiny.paths.run(run.id).artifacts / "root/seen"
    assert int(seen.read_text()) == len(canary.token) + len("\n".join(canary.lines))
    assert canary.found_in(tiny.state.parent) == []


def test_a_job_that_may_not_have_it_ends_in_a_sentence_without_a_vm(
    tiny: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, canary = Jobs(tiny), Canary(tiny)
    monkeypatch.setenv("CANARY_TOKEN", canary.token)
    jobs.write("deploy-db", "true", *ASKS)
    with tiny.agent("--secrets", str(canary.files[1])):
        run = jobs.ended("deploy-db", RunPhase.ERROR, "SecretRefused")
    assert "giving the secret `KEY` to deploy-db" in run.message
    assert "does not allow it to this job" in run.message
    assert run.attempt == 0
    assert not tiny.paths.run(run.id).log.exists()


def test_an_agent_without_a_list_gives_nothing(tiny: Site) -> None:
    jobs = Jobs(tiny)
    jobs.write("deploy-web", "true", *ASKS)
    with tiny.agent():
        run = jobs.ended("deploy-web", RunPhase.ERROR, "SecretRefused")
    assert "say --secrets FILE" in run.message


def left_by_its_agent(place: Site, canary: Canary) -> Jobs:
    """A job that has its secrets, waits to be told to go on and to print one, and whose agent was killed."""
    jobs = Jobs(place)
    script = 'echo begun; while [ ! -e /root/go ]; do sleep 0.1; done; echo "again $TOKEN"'
    jobs.write("deploy-web", script, *ASKS)
    first = place.start("--secrets", str(canary.files[1]))
    jobs.says("deploy-web", "begun")
    first.kill()
    first.wait()
    return jobs


def test_the_next_agent_goes_on_hiding_it(tiny: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: give an attempt that is taken up no secrets."""
    monkeypatch.setenv("CANARY_TOKEN", (canary := Canary(tiny)).token)
    jobs = left_by_its_agent(tiny, canary)
    assert tiny.call("ssh", "deploy-web", "--", "touch /root/go").returncode == 0
    with tiny.agent("--secrets", str(canary.files[1])):
        jobs.ended("deploy-web", RunPhase.SUCCEEDED, "Succeeded", 0)
    assert "again ***" in jobs.log("deploy-web").splitlines()
    assert canary.found_in(tiny.state.parent) == []


def test_an_agent_that_cannot_have_it_lets_the_run_go_on(
    tiny: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: give the run up. A slip in a list then costs what every such job has done."""
    monkeypatch.setenv("CANARY_TOKEN", (canary := Canary(tiny)).token)
    jobs = left_by_its_agent(tiny, canary)
    with tiny.agent():
        tiny.until(
            lambda: b"giving the secret" in tiny.call("explain", "deploy-web").stdout,
            "it says what it lacks",
        )
    assert tiny.call("ssh", "deploy-web", "--", "touch /root/go").returncode == 0
    with tiny.agent("--secrets", str(canary.files[1])):
        run = jobs.ended("deploy-web", RunPhase.SUCCEEDED, "Succeeded", 0)
    assert run.attempt == 1
    assert "again ***" in jobs.log("deploy-web").splitlines()
