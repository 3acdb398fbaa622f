"""A guest that is let out reaches the world, and not the host that it runs on; tried in a network of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.host import run_as_range
from agent.hypervisor.qemu import fence
from tests.e2e.site import DEADLINE, ROOT, Site

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has networks and rules")
LISTENS = """\
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        with listener.accept()[0] as who:
            print("heard", who.recv(99), flush=True)
"""


@contextmanager
def network() -> Iterator[list[str]]:
    """What a command is started behind to be in a network that nothing else is in."""
    holder = subprocess.Popen(
        ["unshare", "--net", "--", "sh", "-c", "ip link set lo up; echo up; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
    finally:
        holder.communicate(b"\n")


@contextmanager
def canary(within: list[str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A listener in that network: it says its port, and then a line for everybody who comes."""
    words = [*within, sys.executable, "-c", LISTENS, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as listener:
        try:
            yield listener
        finally:
            listener.kill()


def said(listener: subprocess.Popen[bytes]) -> bytes:
    assert listener.stdout is not None
    return listener.stdout.readline()


@ROOT_ONLY
@pytest.mark.qemu
@pytest.mark.guest
@pytest.mark.timeout(400)
def test_a_guest_with_egress_reaches_no_address_of_its_host_and_is_reached(tiny: Site) -> None:
    """Sabotage: put no rule up, or one for other users: the canary hears the first word."""
    with network() as within, canary(within, "0.0.0.0") as listener:
        port = int(said(listener))
        subprocess.run([*within, "ip", "addr", "add", "192.0.2.9/32", "dev", "lo"], check=True)
        tiny.within = within
        tiny.vm("web")
        with tiny.agent("--loopback", "fence"):
            tiny.ready("web")
            for address in ("10.0.2.2", "192.0.2.9", "127.0.0.1"):
                tiny.ssh("web", f"echo fenced | timeout 5 nc {address} {port}; true")
        with tiny.agent("--loopback", "open"):
            tiny.until(lambda: "LoopbackOpen" in tiny.log(), "the fence is gone")
            tiny.ssh("web", f"echo open | timeout 5 nc 10.0.2.2 {port}; true")
            assert said(listener) == b"heard b'open\\n'\n", "it hears, and heard nothing before"
        assert tiny.call("down", "--yes", "--volumes").returncode == 0
        tiny.within = []
    assert "the fence is taken away" in tiny.log()


def stands(within: list[str]) -> bool:
    words = [*within, "nft", "list", "table", "inet", fence.TABLE]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@ROOT_ONLY
@pytest.mark.qemu
def test_what_an_agent_has_put_up_is_taken_away_when_guests_may_reach_the_host(still: Site) -> None:
    """Sabotage: only put up no other."""
    with network() as within:
        still.within = within
        with still.agent("--loopback", "fence"):
            still.until(lambda: "Started" in still.log(), "it runs")
            assert stands(within)
        assert stands(within), "machines run on"
        with still.agent("--loopback", "open"):
            still.until(lambda: "LoopbackOpen" in still.log(), "it says so")
            assert not stands(within)
        with still.agent("--loopback", "open") as agent:
            still.until(lambda: f'"pid": {agent.pid},' in still.log(), "it runs")
    still.within = []
    [one] = told(still, "LoopbackOpen")
    assert one.endswith("--loopback open was said, and the fence is taken away")


@ROOT_ONLY
@pytest.mark.qemu
def test_a_fence_that_another_has_put_up_stays_and_is_told_of(still: Site) -> None:
    uids = run_as_range()
    assert uids is not None
    with network() as within:
        text = fence.rules(uids, [])
        subprocess.run([*within, "nft", "-f", "-"], input=text, text=True, check=True)
        still.within = within
        with still.agent("--loopback", "open"):
            still.until(lambda: "Started" in still.log(), "it runs")
            assert len(told(still, "LoopbackFenced")) == 1
        assert stands(within)
    still.within = []


@ROOT_ONLY
@pytest.mark.qemu
def test_a_fence_that_was_flushed_is_put_up_again_and_with_the_resolvers_that_there_are(
    still: Site, tmp_path: Path
) -> None:
    """Sabotage: look no more after the start, or at the resolvers."""
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"no file can be mounted over another here: {tried.stderr.decode()}")
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("nameserver 127.0.0.53\n")
    with network() as within:
        mount = f"mount --bind {resolvers} /etc/resolv.conf && exec "
        still.within = [*within, "unshare", "--mount", "sh", "-c", mount + '"$@"', "sh"]
        with still.agent("--loopback", "fence"):
            still.until(lambda: "Started" in still.log(), "it runs")
            assert "127.0.0.53" in listed(within)
            for flush, times in (("ruleset", 1), (f"table inet {fence.TABLE}", 2)):
                subprocess.run([*within, "nft", "flush", *flush.split()], check=True)
                # Until it has said so it is still at it, and would take the next flush for part of this.
                until_told(still, times)
                assert "reject" in listed(within)
            resolvers.write_text("nameserver 127.0.0.54\n")
            still.until(lambda: "127.0.0.54" in listed(within), "it lets the new one through")
            until_told(still, 3)
    still.within = []
    assert [one.partition(": ")[2] for one in told(still, "LoopbackFenced")] == [
        "its table was gone, and was put up again",
        "somebody had changed its table, and it was put up anew",
        "the host has other resolvers, and it was put up anew with these",
    ]


FLUSHING = """\
#!/bin/sh
# The real one; and the first table that it is told of is flushed at once.
PATH={path} nft "$@"
code=$?
case "$*" in
    "-f -") mkdir {once} 2> {once}.log && PATH={path} nft flush table inet {table} ;;
esac
exit $code
"""


@ROOT_ONLY
@pytest.mark.qemu
def test_a_fence_that_is_flushed_as_soon_as_it_is_put_up_stands_all_the_same(
    still: Site, tmp_path: Path
) -> None:
    """Sabotage: take what is listed then for what was put up. It stays empty, and is never found to differ."""
    path, once = os.environ["PATH"], tmp_path / "once"
    script = FLUSHING.format(path=path, once=once, table=fence.TABLE)
    (tmp_path / "nft").write_text(script)
    (tmp_path / "nft").chmod(0o755)
    with network() as within:
        still.within = [*within, "env", f"PATH={tmp_path}:{path}"]
        with still.agent("--loopback", "fence"):
            still.until(lambda: "Started" in still.log(), "it runs")
            assert once.exists()
            still.until(lambda: "reject" in listed(within), "it stands")
    still.within = []


@ROOT_ONLY
@pytest.mark.qemu
def test_a_fence_that_can_be_put_up_later_is_and_why_not_is_told_once(
    still: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: tell at each look."""
    nft, tried, fixed = tmp_path / "bin/nft", tmp_path / "tried", tmp_path / "fixed"
    nft.parent.mkdir()
    refuse = f"echo >> {tried}; echo no >&2; exit 1"
    nft.write_text(f'#!/bin/sh\n[ -e {fixed} ] || {{ {refuse}; }}\nexec /usr/sbin/nft "$@"\n')
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nft.parent}:{os.environ['PATH']}")
    with network() as within:
        still.within = within
        with still.agent("--loopback", "fence"):
            still.until(lambda: tried.exists() and tried.stat().st_size > 2, "it tries again")
            fixed.touch()
            still.until(lambda: stands(within), "it stands")
            still.until(lambda: "LoopbackFenced" in still.log(), "it says so")
    still.within = []
    assert [one.rpartition(": ")[2] for one in told(still, "LoopbackOpen")] == ["no"]


def listed(within: list[str]) -> str:
    words = [*within, "nft", "list", "ruleset"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def until_told(place: Site, times: int) -> None:
    place.until(lambda: len(told(place, "LoopbackFenced")) >= times, "it says that it put it up")


def told(place: Site, reason: str) -> list[str]:
    """What events with that reason say."""
    return [one["message"] for one in place.events() if one["reason"] == reason]


@ROOT_ONLY
def test_it_stands_once_however_often_it_is_put_up_and_spares_the_resolver() -> None:
    uids = run_as_range()
    assert uids is not None
    text = fence.rules(uids, [ip_address("127.0.0.53"), ip_address("::1")])
    with network() as within:
        for _ in range(2):
            subprocess.run([*within, "nft", "-f", "-"], input=text, text=True, check=True)
        rules = subprocess.run(
            [*within, "nft", "list", "ruleset"], capture_output=True, text=True, check=True
        ).stdout
        assert rules.count("skuid") == rules.count("reject") == 1
        with canary(within, "127.0.0.1") as listener:
            port = int(said(listener))
            for uid, heard in ((uids[0], False), (uids[-1], False), (uids[-1] + 1, True)):
                assert _connects(within, uid, port) is heard


def _connects(within: list[str], uid: int, port: int) -> bool:
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
    tried = f"import socket; socket.create_connection(('127.0.0.1', {port}), {DEADLINE}).close()"
    whole = [*within, *words, "/usr/bin/python3", "-c", tried]
    done = subprocess.run(whole, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


@ROOT_ONLY
@pytest.mark.qemu
def test_an_agent_that_cannot_put_it_up_says_so_and_works(still: Site) -> None:
    still.within = ["setpriv", "--bounding-set=-net_admin", "--"]
    still.vm("web")
    with still.agent("--loopback", "fence"):
        still.ready("web")
        [why] = told(still, "LoopbackOpen")
    assert why.startswith("guests with egress reach what listens on this host: nft refuses: ")


@ROOT_ONLY
def test_a_doctor_tries_it_and_puts_none_up(still: Site) -> None:
    """Sabotage: let `doctor` put it up."""
    with network() as within:
        still.within = within
        assert loopback_said(still) == "ok"
        rules = subprocess.run([*within, "nft", "list", "ruleset"], capture_output=True, check=True)
        assert rules.stdout == b""
    still.within = ["setpriv", "--bounding-set=-net_admin", "--"]
    assert loopback_said(still) == "warning"
    still.within = []


@ROOT_ONLY
@pytest.mark.qemu
def test_a_doctor_tells_of_a_running_agent_whose_fence_does_not_stand(still: Site) -> None:
    """Sabotage: only try whether it could."""
    with network() as within:
        still.within = within
        for choice, verdict in (("fence", "ok"), ("open", "warning")):
            with still.agent("--loopback", choice) as agent:
                still.until(lambda: f'"pid": {agent.pid},' in still.log(), "it runs")
                assert loopback_said(still) == verdict
        assert loopback_said(still) == "ok", "none runs"
    still.within = []


def loopback_said(place: Site) -> str:
    """The verdict of `doctor`."""
    found = json.loads(place.call("doctor", "-o", "json").stdout)
    [one] = [one for one in found["checks"] if one["check"] == "loopback"]
    return str(one["verdict"])


def test_without_root_it_is_told_why_there_is_none() -> None:
    """Sabotage: let root of a user namespace become root."""
    ask = "from agent.hypervisor.qemu import fence; from agent.host import run_as_range as r; print(fence.put_up(r()))"
    call = [sys.executable, "-c", ask]
    if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    for scope, why in (
        (["unshare", "--user", "--map-root-user"], "this user namespace maps no range of users"),
        (["unshare", "--user"], "only root can fence off QEMUs, by users of their own"),
    ):
        said = subprocess.run([*scope, *call], capture_output=True, text=True, cwd=ROOT)
        assert said.stdout.startswith(why), said.stderr


def test_resolvers_are_addresses_or_nothing(tmp_path: Path) -> None:
    """Text of a file that others may write goes into rules."""
    path = tmp_path / "resolv.conf"
    path.write_text(
        "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver x accept\nsearch a\n"
    )
    found = [str(one) for one in fence.resolvers(path)]
    assert found == ["127.0.0.53", "fe80::1"]
    assert fence.resolvers(tmp_path / "none") == []
