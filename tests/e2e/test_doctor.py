"""What `doctor` says of this host, and of one with something wrong: in each case what, and what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.diagnosis import Finding, Patient, findings
from agent.config import Settings
from agent.paths import StatePaths
from tests.e2e.site import Site

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]

QEMU = "qemu-system-x86_64"
CHECKS = [
    "qemu", "programs", "accelerator", "state", "disk", "memory", "limits", "users", "ports",
    "loopback", "clock", "git",
]  # fmt: skip


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Patient(StatePaths(state), Settings(), QEMU, 1_800_000_000.0)


def finding(patient: Patient, check: str) -> Finding:
    """What is found of one thing; the rest is not looked at further than it has to be."""
    return next(one for one in findings(patient) if one.check == check)


def test_every_thing_has_a_line_in_text_and_in_json(still: Site) -> None:
    told = still.call("doctor", "-o", "json")
    found = json.loads(told.stdout)
    assert [one["check"] for one in found["checks"]] == CHECKS
    assert {one["verdict"] for one in found["checks"]} <= {"ok", "warning", "bad"}
    assert all(bool(one["hint"]) == (one["verdict"] != "ok") for one in found["checks"])
    assert (told.returncode, found["well"]) == (0, True), told.stdout
    lines = still.call("doctor").stdout.decode().splitlines()
    assert [line.split()[1] for line in lines] == CHECKS
    assert not still.state.exists(), "nothing is made by looking"


def test_one_thing_that_is_wrong_makes_the_status_and_keeps_no_other_from_being_looked_at(
    still: Site,
) -> None:
    told = still.call("doctor", "--qemu", "/no/such/qemu")
    lines = still.call("doctor", "--qemu", "/no/such/qemu").stdout.decode().splitlines()
    assert told.returncode == 1
    assert lines[0].startswith("bad      qemu         there is no program /no/such/qemu (install")
    assert len(lines) == len(CHECKS)


def test_a_qemu_that_does_not_run_is_told_by_its_own_words(
    patient: Patient, tmp_path: Path
) -> None:
    broken = tmp_path / "qemu"
    broken.write_text("#!/bin/sh\necho 'libspice.so: not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    found = finding(replace(patient, qemu=str(broken)), "qemu")
    assert found.verdict == "bad"
    assert "libspice.so: not found" in found.message


def test_an_accelerator_that_was_asked_for_and_does_not_work_is_bad(patient: Patient) -> None:
    """Sabotage: take a device that is there for one that works."""
    asked = finding(replace(patient, settings=Settings(accel="kvm")), "accelerator")
    usual = finding(patient, "accelerator")
    works = " under KVM" in usual.message and "under KVM QEMU" not in usual.message
    works = works and "not at all" not in usual.message and "had not ended" not in usual.message
    assert asked.verdict == ("ok" if works else "bad")
    assert "under TCG" in usual.message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: root.chmod(0o755), "is open to others (mode 0755)"),
        (lambda root: root.parent.chmod(0o777), "could be exchanged: anybody may write to"),
        pytest.param(
            lambda root: os.chown(root, 12345, 12345),
            "belongs to uid 12345",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_a_state_directory_that_no_agent_would_take_is_bad(
    patient: Patient, spoil: Callable[[Path], object], said: str
) -> None:
    assert finding(patient, "state").verdict == "ok"
    spoil(patient.state.root)
    found = finding(patient, "state")
    assert found.verdict == "bad"
    assert said in found.message
    assert found.hint


def test_who_holds_the_state_directory_is_told(still: Site) -> None:
    with still.agent() as agent:
        still.until(still.paths.lock.exists, "it runs")
        still.until(lambda: still.status()["agent"]["running"], "it runs")
        told = still.call("doctor").stdout.decode()
        assert f"the agent with pid {agent.pid} holds it" in told


def test_less_disk_than_the_floor_is_bad(patient: Patient) -> None:
    full = replace(patient, settings=Settings(disk_floor=1 << 60))
    assert finding(patient, "disk").verdict == "ok"
    assert finding(full, "disk").verdict == "bad"


@pytest.mark.parametrize("option", ["--nofile=1000:1000", "--memlock=4096:4096"])
def test_a_limit_that_keeps_vms_from_starting_is_bad(still: Site, option: str) -> None:
    still.within = ["prlimit", option, "--"]
    told = still.call("doctor")
    [line] = [one for one in told.stdout.decode().splitlines() if one.split()[1] == "limits"]
    assert (told.returncode, line.split()[0]) == (1, "bad")
    assert "raise the hard limit" in line


def test_a_clock_that_cannot_be_right_is_told(patient: Patient) -> None:
    assert finding(patient, "clock").verdict == "ok"
    assert finding(replace(patient, now=0.0), "clock").verdict == "bad"
    patient.state.database.touch()
    os.utime(patient.state.database, (0, patient.now + 3600.0))
    found = finding(patient, "clock")
    assert found.verdict == "warning"
    assert "state.db was written 3600 s after that" in found.message


def test_missing_programs_are_told_with_their_packages(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "bin"
    few.mkdir()
    for name in (QEMU, "setpriv", "prlimit"):
        (few / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(few))
    programs = finding(patient, "programs")
    assert programs.verdict == "bad"
    assert (programs.message, programs.hint) == ("there is no qemu-img", "install qemu-utils")
    assert finding(patient, "git").verdict == "warning"
    followed = replace(patient, settings=Settings(git="https://git.example/r"))
    assert finding(followed, "git").verdict == "bad"


def test_a_repository_over_ssh_wants_ssh(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "bin"
    few.mkdir()
    for name in (QEMU, "setpriv", "prlimit", "git"):
        (few / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(few))
    found = finding(replace(patient, settings=Settings(git="git@git.example:r")), "git")
    assert (found.verdict, found.hint) == ("bad", "install openssh-client")
