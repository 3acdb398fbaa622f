"""The units of systemd: what is in them, that systemd takes them, and what it says of their confinement."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import BadUsage
from agent.units import AGENT, GUESTS, STATE, Service, agent_unit, guests_unit, listed, word

SERVICE = Service(
    program=Path("/bin/true"),
    options=("--desired", "/srv/vms", "--interval", "10"),
    state=STATE,
    reads=(Path("/srv/vms"),),
    system=True,
    drain=60.0,
)
WORST = 4.0
"""What `systemd-analyze security` may say of the agent's unit at most, out of ten: it calls that OK."""


def settings(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and line[0] != "#")


def written(into: Path, service: Service) -> list[Path]:
    paths = [into / AGENT, into / GUESTS]
    for path, text in zip(paths, (agent_unit(service), guests_unit(service)), strict=True):
        path.write_text(text)
    return paths


def complaints(paths: list[Path], scope: str = "--system") -> str:
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", scope, *paths],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(paths[0].parent)},
    )
    lines = [line for line in told.stderr.splitlines() if "holdfast" in line]
    assert lines or told.returncode == 0, told.stderr
    return "\n".join(lines)


def test_the_agent_is_the_only_process_that_is_ever_signalled() -> None:
    said = settings(agent_unit(SERVICE))
    assert said["KillMode"] == "process"
    assert said["Type"] == "notify"
    assert said["OOMPolicy"] == "continue", "a VM that the kernel ends must not end the agent"
    assert said["ExecStart"] == (
        "/bin/true run --state /var/lib/holdfast --desired /srv/vms --interval 10"
    )


def test_vms_are_powered_down_before_the_agent_is_stopped_and_by_nothing_else() -> None:
    """Sabotage: order them the other way, or bind one to the other: a restart of the agent then takes VMs down."""
    said = settings(guests_unit(SERVICE))
    assert AGENT in said["After"].split()
    assert not {"Requires", "BindsTo", "PartOf", "ExecStart"} & said.keys()
    assert said["ExecStop"] == "/bin/true stop --state /var/lib/holdfast --on-stop shutdown"
    assert not {"Requires", "BindsTo", "PartOf"} & settings(agent_unit(SERVICE)).keys()


@pytest.mark.parametrize("drain", [0.0, 7200.0])
def test_nobody_is_cut_off_before_jobs_have_had_their_time(drain: float) -> None:
    for unit in (agent_unit, guests_unit):
        patience = settings(unit(replace(SERVICE, drain=drain)))["TimeoutStopSec"]
        assert int(patience.removesuffix("s")) >= drain + 60


@pytest.mark.parametrize("state", [STATE, Path("/srv/my state %h $HOME \\x41 \"quoted\" 'too'")])
def test_systemd_takes_them(tmp_path: Path, state: Path) -> None:
    service = replace(SERVICE, state=state, reads=(Path("/srv/a b;c"),))
    assert complaints(written(tmp_path, service)) == ""
    assert complaints(written(tmp_path, replace(service, system=False)), "--user") == ""


def test_what_systemd_does_not_take_is_seen(tmp_path: Path) -> None:
    paths = written(tmp_path, SERVICE)
    paths[0].write_text(paths[0].read_text().replace("KillMode=process", "KillMode=gently"))
    assert "Failed to parse kill mode" in complaints(paths)


def test_the_agent_keeps_as_little_as_it_can_do_with(tmp_path: Path) -> None:
    path, _ = written(tmp_path, SERVICE)
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", path], capture_output=True, text=True
    )
    [found] = re.findall(r"exposure level for \S+: ([0-9.]+)", told.stdout)
    assert float(found) <= WORST, told.stdout


@pytest.mark.parametrize("path", ["/home/me/vms", "/root/vms", "/run/user/1000/vms"])
def test_homes_are_shut_unless_something_lies_there(path: str) -> None:
    assert settings(agent_unit(SERVICE))["ProtectHome"] == "yes"
    for service in (replace(SERVICE, reads=(Path(path),)), replace(SERVICE, home=True)):
        assert settings(agent_unit(service))["ProtectHome"] == "read-only"


def test_another_state_directory_is_the_only_place_to_write_to() -> None:
    own, other = settings(agent_unit(SERVICE)), replace(SERVICE, state=Path("/srv/state"))
    assert (own["StateDirectory"], own["StateDirectoryMode"]) == ("holdfast", "0700")
    said = settings(agent_unit(other))
    assert said["ReadWritePaths"] == "/srv/state"
    assert "StateDirectory" not in said


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("/srv/vms", "/srv/vms"),
        ("a b", '"a b"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a\\b", '"a\\\\b"'),
        ("", '""'),
        (";", '";"'),
    ],
)
def test_a_word_stays_one_word(said: str, meant: str) -> None:
    assert word(said) == meant


def test_only_command_lines_give_a_dollar_a_meaning() -> None:
    """Sabotage: quote a path as a word of a command line: systemd then waits for another mount, and lets the agent
    write to another directory."""
    assert listed(Path("/srv/$a 100%")) == '"/srv/$a 100%%"'
    unit = settings(agent_unit(replace(SERVICE, state=Path("/srv/$a"), reads=(Path("/b$"),))))
    assert unit["ReadWritePaths"] == '"/srv/$a"'
    assert unit["RequiresMountsFor"] == '"/srv/$a" "/b$"'
    assert '--state "/srv/$$a"' in unit["ExecStart"]


def test_a_low_port_takes_one_more_capability() -> None:
    for low in (True, False):
        kept = settings(agent_unit(replace(SERVICE, low_port=low)))["CapabilityBoundingSet"]
        assert ("CAP_NET_BIND_SERVICE" in kept.split()) is low


@pytest.mark.parametrize("said", ["a\nExecStartPre=/bin/evil", "\0", "\x1b[0m"])
def test_what_would_add_a_line_is_refused(said: str) -> None:
    with pytest.raises(BadUsage):
        word(said)


@pytest.mark.parametrize("call", ["seccomp", "capset", "setresuid", "prlimit64", "pidfd_open"])
def test_system_calls_are_left_that_confine_a_vm(call: str) -> None:
    """`seccomp` is in no group of systemd 252: without it QEMU knows no `-sandbox`, and no VM starts."""
    found, left = set[str](), settings(agent_unit(SERVICE))["SystemCallFilter"].split()
    while left:
        if (name := left.pop()).startswith("@"):
            told = subprocess.run(
                ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True
            )
            lines = told.stdout.splitlines()[1:]
            left += [one.strip() for one in lines if one.strip()[:1] not in ("", "#")]
        else:
            found.add(name)
    assert call in found
