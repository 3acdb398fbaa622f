"""Jobs on real QEMU: whatever becomes of a script or its guest, the run has one honest result and leaves nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from state.runs import RunPhase
from tests.e2e.jobs import NO_RETRIES, Jobs, count
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(600)]

FOR_EVER = "echo begun\nsleep 100000"


@pytest.fixture
def jobs(tiny: Site) -> Jobs:
    return Jobs(tiny)


def test_a_job_with_everything_in_it(jobs: Jobs) -> None:
    """A program from a file, its environment, files, artifacts, labels; its output in order; a secret masked."""
    site = jobs.site
    site.write("work.sh", WORK)
    site.write("input.json", '{"number": 41}')
    site.write(
        "unit.yaml",
        f"""\
api: holdfast/v1
kind: job
name: unit
labels: {{team: edge}}
runs_on: other
size: small
script_file: work.sh
env: {{GREETING: "hello, world", TOKEN: s3cret-value}}
secrets: [TOKEN]
files: [{{path: /root/in/input.json, source: input.json, mode: "0640"}}]
artifacts: ["/root/report/*.xml", "/root/nothing-here"]
timeouts: {{boot: 5m, silence: 5m, total: 10m}}
{NO_RETRIES}
""",
    )
    with site.agent():
        run = jobs.ended("unit", RunPhase.SUCCEEDED, "Succeeded", 0)
        said = jobs.log("unit")
        item = site.item("unit")
    lines = said.splitlines()
    begun = lines.index("hello, world in argv[0]")
    assert lines[begun + 1 : begun + 5] == [
        '{"number": 41}', "640", "the token is ***", "to the other output",
    ], said  # fmt: skip
    assert count(said, "holdfast-guest: ready") <= 1, "the console is in it once"
    assert any("Linux version" in line for line in lines[:begun]), "the console comes first"
    assert "s3cret-value" not in said
    assert (item["labels"], item["image"]) == ({"team": "edge"}, "copy")
    told = json.loads(site.call("job artifacts", "unit", "-o", "json").stdout)
    assert [(one["name"], one["size"]) for one in told] == [("root/report/a.xml", 6)]
    content = Path(told[0]["path"]).read_bytes()
    assert content == b"<ok/>\n"
    assert told[0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert run.attempt == 1


WORK = """\
#!/bin/sh
echo "$GREETING in argv[${0:+0}]"
cat /root/in/input.json; echo
stat -c %a /root/in/input.json
echo "the token is $TOKEN"
echo "to the other output" >&2
mkdir -p /root/report
echo '<ok/>' >/root/report/a.xml
echo not this >/root/report/b.txt
"""


def test_output_comes_line_by_line_and_a_failed_script_still_gives_its_artifacts(
    jobs: Jobs,
) -> None:
    """The second line comes only after the first was read on the host: here, through a file that ssh puts there."""
    jobs.write(
        "tests",
        "echo first\nuntil [ -e /root/go ]; do sleep 0.1; done\necho second; echo x >/root/out\nexit 7",
        "artifacts: [/root/out]",
        "retries: {infrastructure: 0, interrupted: 0, script: 1}",
    )
    with jobs.site.agent():
        jobs.says("tests", "first")
        jobs.site.ssh("tests", "touch /root/go")
        first = jobs.phase("tests", RunPhase.RUNNING)
        jobs.site.until(lambda: jobs.written("tests").count("first\n") == 2, "it is tried again")
        jobs.site.ssh("tests", "touch /root/go")
        run = jobs.ended("tests", RunPhase.FAILED, "ScriptFailed", 7)
        assert (run.attempt, run.spent.script, run.id) == (2, 1, first.id)
        assert [one.file for one in run.artifacts] == ["root/out"]
        said = jobs.log("tests")
        assert count(said, "first") == count(said, "second") == 2


def test_a_script_that_never_ends_and_one_that_goes_silent_are_ended_by_their_clocks(
    jobs: Jobs,
) -> None:
    jobs.write(
        "endless",
        "while :; do echo tick; sleep 1; done",
        "timeouts: {total: 25s, silence: 15s}",
        NO_RETRIES,
    )
    jobs.write("silent", FOR_EVER, "timeouts: {total: 10m, silence: 2s}", NO_RETRIES)
    with jobs.site.agent():
        jobs.phase("endless", RunPhase.TIMEOUT)
        run = jobs.phase("silent", RunPhase.TIMEOUT)
        assert "no output for 2 s" in run.message
        assert "begun" in jobs.log("silent").splitlines()
        jobs.ended("endless", RunPhase.TIMEOUT, "TotalTimeout")
        jobs.ended("silent", RunPhase.TIMEOUT, "Silence")


def test_a_guest_that_never_boots_and_one_without_ssh_are_errors_of_the_machinery(
    jobs: Jobs,
) -> None:
    """One disk has nothing on it. The other boots, and looks for its seed where that is not, so that nobody has a login
    there: no SSH server is started."""
    jobs.write(
        "mute", "echo never", "runs_on: mute", "timeouts: {boot: 4s}",
        "retries: {infrastructure: 1, interrupted: 0, script: 0}",
    )  # fmt: skip
    jobs.write("deaf", "echo never", "runs_on: deaf", "timeouts: {boot: 15s}", NO_RETRIES)
    images = (jobs.site.desired / "images.yaml").read_text()
    deaf = f'  deaf: {{source: "{jobs.site.image}", ssh_user: tiny, machine: q35}}\n'
    jobs.site.write("images.yaml", images + deaf)
    with jobs.site.agent():
        run = jobs.phase("mute", RunPhase.ERROR)
        assert (run.reason, run.attempt, run.spent.infrastructure) == ("BootTimeout", 2, 1)
        jobs.phase("deaf", RunPhase.ERROR)
        jobs.ended("mute", RunPhase.ERROR, "BootTimeout")
        jobs.ended("deaf", RunPhase.ERROR, "BootTimeout")
        assert "never" not in jobs.log("mute").splitlines()


def test_a_vm_that_is_lost_under_its_script_interrupts_the_run(jobs: Jobs) -> None:
    jobs.write("killed", FOR_EVER, NO_RETRIES)
    jobs.write("off", FOR_EVER, NO_RETRIES)
    with jobs.site.agent():
        jobs.says("killed", "begun")
        jobs.says("off", "begun")
        jobs.site.kill(jobs.site.item("killed")["pid"])
        jobs.site.ssh("off", "poweroff -f >/dev/null 2>&1 &")
        jobs.phase("off", RunPhase.INTERRUPTED)
        jobs.ended("killed", RunPhase.INTERRUPTED, "VmLost")
        jobs.ended("off", RunPhase.INTERRUPTED, "GuestPoweredOff")


def test_a_job_that_is_called_off_ends_and_the_one_that_waits_begins(jobs: Jobs) -> None:
    jobs.write("cancelled", FOR_EVER, NO_RETRIES, "priority: 2")
    jobs.write("deleted", FOR_EVER, NO_RETRIES, "priority: 1")
    jobs.write("later", "echo mine")
    with jobs.site.agent("--max-concurrency", "1"):
        jobs.says("cancelled", "begun")
        for waits in (jobs.site.item("deleted"), jobs.site.item("later")):
            assert waits["phase"] == "queued"
            assert waits["message"] == "capacity: 1 of 1 jobs"
        told = jobs.site.call("job cancel", "cancelled")
        assert told.returncode == 0, told.stderr
        jobs.says("deleted", "begun")
        jobs.site.delete("deleted")
        jobs.phase("later", RunPhase.SUCCEEDED)
        run = jobs.ended("cancelled", RunPhase.CANCELLED, "Cancelled")
        assert run.message == "it was cancelled by hand"
        run = jobs.ended("deleted", RunPhase.CANCELLED, "Cancelled")
        assert run.message == "no document names it any more"


def test_an_agent_that_is_told_to_leave_lets_jobs_end_and_interrupts_those_that_do_not(
    jobs: Jobs,
) -> None:
    jobs.write("quick", "echo begun\nsleep 4\necho done", NO_RETRIES)
    jobs.write("slow", FOR_EVER, NO_RETRIES)
    with jobs.site.agent("--drain-timeout", "8s"):
        jobs.says("quick", "begun")
        jobs.says("slow", "begun")
    assert jobs.phase("quick", RunPhase.SUCCEEDED).exit_code == 0
    jobs.ended("slow", RunPhase.INTERRUPTED, "Drained")
    jobs.ended("quick", RunPhase.SUCCEEDED, "Succeeded", 0)


def test_six_jobs_of_two_labels_stand_in_line_for_two_places(jobs: Jobs) -> None:
    """One label has one place, so that it never holds both; who waits says for what."""
    for number in range(6):
        label = "tiny" if number < 4 else "copy"
        jobs.write(f"j{number}", f"echo {number}\nsleep 1", f"runs_on: {label}", NO_RETRIES)
    most = 0
    seen: set[str] = set()
    with jobs.site.agent("--max-concurrency", "2", "--capacity-map", "tiny=1"):

        def all_ended() -> bool:
            nonlocal most
            items = jobs.site.status()["items"]
            active = [one for one in items if one["phase"] in ("booting", "running")]
            most = max(most, len(active))
            assert len(active) <= 2
            assert len([one for one in active if one["image"] == "tiny"]) <= 1
            seen.update(one["message"] for one in items if one["phase"] == "queued")
            return len(items) == 6 and all(one["phase"] == "succeeded" for one in items)

        jobs.site.until(all_ended, "all have succeeded")
        for number in range(6):
            jobs.ended(f"j{number}", RunPhase.SUCCEEDED, "Succeeded", 0)
            assert count(jobs.log(f"j{number}"), str(number)) == 1
    assert most == 2
    assert "capacity: tiny 1 of 1" in seen


def test_a_failed_vm_is_kept_for_a_look_until_its_time_is_over_or_a_rerun(jobs: Jobs) -> None:
    jobs.write("tests", "echo left >/root/evidence; exit 3", "keep_on_failure: 1h", NO_RETRIES)
    with jobs.site.agent():
        run = jobs.phase("tests", RunPhase.FAILED)
        assert jobs.site.ssh("tests", "cat /root/evidence") == "left\n"
        assert jobs.site.item("tests")["kept_until"] is not None
        first = jobs.site.processes()
        told = jobs.site.call("job rerun", "tests")
        assert told.returncode == 0, told.stderr
        jobs.site.until(
            lambda: [one.phase for one in jobs.runs("tests")] == [RunPhase.FAILED] * 2,
            "it has failed again",
        )
        assert not first.keys() & jobs.site.processes().keys()
        assert jobs.runs("tests")[0].id == run.id
        told = jobs.site.call("job history", "tests", "-o", "json")
        assert [one["exit_code"] for one in json.loads(told.stdout)] == [3, 3]
        jobs.site.delete("tests")
        jobs.site.until(lambda: jobs.site.processes() == {}, "what was kept goes with its document")
    jobs.at_rest()
