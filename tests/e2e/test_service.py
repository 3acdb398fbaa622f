"""An agent as a service: what it tells its manager, what `install-service` writes, and the rights it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.units import AGENT, CAPABILITIES, GUESTS
from tests.e2e.site import DEADLINE, ROOT, Site
from tests.e2e.test_life import ends, lives
from tests.listening import Ear, ear
from tests.unit.test_units import complaints

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

EVERY = 0.5
"""Seconds within which the manager of these tests wants to hear something."""
SILENCE = 3 * EVERY


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    """The manager of agents that are started by the test."""
    with ear(tmp_path / "notify") as made:
        monkeypatch.setenv("NOTIFY_SOCKET", made.address)
        monkeypatch.setenv("WATCHDOG_USEC", f"{EVERY * 1e6:.0f}")
        yield made


def goes_on(still: Site, heard: Ear) -> None:
    before = heard.count("WATCHDOG=1")
    still.until(lambda: heard.count("WATCHDOG=1") > before + 2, "it says that it lives")


def test_an_agent_is_ready_lives_and_leaves(still: Site, heard: Ear) -> None:
    still.vm("web")
    with still.agent():
        still.until(lambda: heard.count("READY=1"), "it is ready")
        pid = still.ready("web")["pid"]
        goes_on(still, heard)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environment, "a VM has nothing to say to the manager"
    words = heard.words()
    assert (words[0], words.count("READY=1"), words.count("STOPPING=1")) == ("READY=1", 1, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's agent starts nft")
def test_what_is_started_before_the_loop_has_nothing_to_say_to_the_manager(
    still: Site, heard: Ear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: take the words out of the environment where the loop begins."""
    seen, nft = tmp_path / "seen", tmp_path / "bin/nft"
    nft.parent.mkdir()
    nft.write_text(f"#!/bin/sh\nenv >> {seen}\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nft.parent}:{os.environ['PATH']}")
    with still.agent("--loopback", "fence"):
        still.until(lambda: heard.count("READY=1"), "it is ready")
    assert "PATH=" in seen.read_text()
    assert "NOTIFY_SOCKET" not in seen.read_text()
    assert "WATCHDOG_USEC" not in seen.read_text()


def test_an_agent_that_stands_still_gives_no_sign_and_the_one_after_it_adopts(
    still: Site, heard: Ear
) -> None:
    """What systemd then does is done by hand: SIGABRT, and begin anew."""
    still.vm("web")
    agent = still.start()
    pid = still.ready("web")["pid"]
    goes_on(still, heard)
    agent.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{agent.pid}/stat")
    still.until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
    before = heard.count("WATCHDOG=1")
    with pytest.raises(subprocess.TimeoutExpired):
        agent.wait(SILENCE)
    assert heard.count("WATCHDOG=1") == before
    for number in (signal.SIGABRT, signal.SIGCONT):
        agent.send_signal(number)
    assert agent.wait(DEADLINE) == -signal.SIGABRT
    with still.agent():
        still.until(lambda: "Adopted" in still.log(), "the next one adopts")
        assert still.ready("web")["pid"] == pid


@pytest.mark.guest
@pytest.mark.skipif(os.geteuid() != 0, reason="rights are root's to give up")
def test_the_rights_that_the_unit_leaves_are_enough(tiny: Site) -> None:
    """Sabotage: leave out CAP_SETUID, or CAP_KILL."""
    left = ",".join(f"+{one.removeprefix('CAP_').lower()}" for one in CAPABILITIES)
    tiny.within = ["setpriv", f"--bounding-set=-all,{left}", "--inh-caps=-all", "--no-new-privs"]
    tiny.vm("other")
    with tiny.agent() as agent:
        tiny.ready("other")
        status = Path(f"/proc/{agent.pid}/status").read_text()
        [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")]
        assert int(mask, 16).bit_count() <= len(CAPABILITIES), "it has no other"
        item = lives(tiny, more="disk: 3GiB\n")
        tiny.vm("web", more="disk: 4GiB\nlabels: {tier: edge}\n")
        tiny.until(lambda: item["uid"] in grown(tiny), "its disk has grown")
        ends(tiny, item)
        tiny.kill(tiny.item("other")["pid"])
        tiny.ready("other", restarts=1)


def grown(tiny: Site) -> list[str | None]:
    return [one["uid"] for one in tiny.events() if one["reason"] == "Updated"]


def units(into: Path) -> dict[str, str]:
    return {name: (into / name).read_text() for name in (AGENT, GUESTS)}


@pytest.fixture
def called_by_name(tmp_path: Path) -> list[str]:
    """What calls the program as an operator does."""
    program = tmp_path / "holdfast"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    call = f"import sys; sys.argv[0] = {str(program)!r}; from agent.cli import main; main()"
    return [sys.executable, "-c", call]


def install(
    called: list[str], into: Path, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*called, "install-service", "--directory", str(into), *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )


def test_install_service_writes_what_was_said_as_it_is_meant_elsewhere(
    tmp_path: Path, called_by_name: list[str]
) -> None:
    told = install(
        called_by_name, tmp_path / "units", "--desired", "examples/desired", "--capacity-map",
        "tiny=1,other=2", "--drain-timeout", "2h", "--image-root", "/srv/a b", "--image-root", "/c",
        "--on-stop", "leave", "--state", str(tmp_path / "state"), HOLDFAST_INTERVAL="7",
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    written = units(tmp_path / "units")
    [start] = [line for line in written[AGENT].splitlines() if line.startswith("ExecStart=")]
    for part in (
        f"ExecStart={tmp_path}/holdfast run --state {tmp_path}/state ",
        f" --desired {ROOT}/examples/desired ", " --capacity-map tiny=1,other=2 ",
        ' --image-root "/srv/a b" --image-root /c ', " --interval 7 ", " --on-stop leave",
        " --drain-timeout 2h",
    ):  # fmt: skip
        assert part in start + " ", start
    assert "TimeoutStopSec=7800s" in written[AGENT]
    assert complaints([tmp_path / "units" / name for name in (AGENT, GUESTS)]) == ""
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    again = install(called_by_name, tmp_path / "units", "--git", "https://h/r", "--branch", "b")
    assert again.returncode == 0
    assert "--git https://h/r --branch b" in units(tmp_path / "units")[AGENT]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's unit hides anything")
def test_install_service_hides_nothing_that_was_named(
    tmp_path: Path, called_by_name: list[str]
) -> None:
    """Sabotage: take a repository, or what the list of secrets names, for something elsewhere."""
    repository, listed = Path("/tmp/no such/x.git"), tmp_path / "secrets.yaml"
    listed.write_text("TOKEN: {file: /root/token, jobs: [a]}\nB: {environment: B, jobs: [b]}\n")
    listed.chmod(0o600)
    for git in (str(repository), "file:///tmp/no%20such/x.git"):
        told = install(
            called_by_name, tmp_path / "units", "--state", str(tmp_path / "state"), "--git", git,
            "--secrets", str(listed), "--listen", ":80",
        )  # fmt: skip
        assert (told.returncode, told.stderr) == (0, "")
        lines = units(tmp_path / "units")[AGENT].splitlines()
        [mounts] = [line for line in lines if line.startswith("RequiresMountsFor=")]
        assert mounts.endswith(f' {listed} "{repository}" /root/token')
        [kept] = [line for line in lines if line.startswith("CapabilityBoundingSet=")]
        assert "CAP_NET_BIND_SERVICE" in kept.split()
        assert {"PrivateTmp=no", "ProtectHome=read-only"} <= set(lines)
    told = install(
        called_by_name, tmp_path / "units", "--state", str(tmp_path / "state"), "--git",
        "https://h/r", "--secrets", str(listed),
    )  # fmt: skip
    assert "ProtectHome=read-only" in units(tmp_path / "units")[AGENT].splitlines()


def test_install_service_leaves_to_a_configuration_what_that_says(
    tmp_path: Path, called_by_name: list[str]
) -> None:
    config = tmp_path / "holdfast.yaml"
    config.write_text("desired: /srv/vms\ninterval: 9\n")
    told = install(called_by_name, tmp_path / "units", "--config", str(config))
    assert told.returncode == 0, told.stderr
    start = units(tmp_path / "units")[AGENT]
    assert f" --config {config}\n" in start
    assert "--desired" not in start


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 64, "no source of documents was given"),
        (("--desired", "/a", "--once"), 64, "--once"),
        (("--desired", "/a", "--drain-timeout", "soon"), 64, "--drain-timeout"),
        (("--desired", "/a\nExecStart=/bin/evil"), 64, "cannot stand in a unit"),
    ],
)
def test_install_service_refuses_what_run_would_refuse(
    tmp_path: Path, called_by_name: list[str], words: tuple[str, ...], status: int, said: str
) -> None:
    told = install(called_by_name, tmp_path / "units", *words)
    assert told.returncode == status
    assert said in told.stderr
    assert not (tmp_path / "units").exists()
