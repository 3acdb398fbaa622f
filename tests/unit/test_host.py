"""What the running host says of itself, told against listeners and user namespaces that the tests make."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent import host as host_module
from agent.host import LinuxHost, memory, run_as_range
from agent.policy import ENOUGH, SSH_PORTS, ssh_ports
from state.observed import Listener

Listen = Callable[[str], int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens a listener at an address, and says its port."""
    with ExitStack() as stack:

        def opened(address: str) -> int:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family))
            try:
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                listener.bind((address, 0))
            except OSError as error:
                pytest.skip(f"this host has no {address}: {error}")
            listener.listen()
            return int(listener.getsockname()[1])

        yield opened


def at(port: int, *of_interest: int) -> list[Listener]:
    return [one for one in LinuxHost(Path("/")).listeners(of_interest) if one.port == port]


def own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("127.1.2.3", "127.1.2.3"), ("0.0.0.0", "0.0.0.0"),
     ("::", "0.0.0.0"), ("::ffff:127.0.0.1", "127.0.0.1")],
)  # fmt: skip
def test_a_listener_is_told_with_its_address_and_who_it_is(
    listen: Listen, address: str, shown: str
) -> None:
    port = listen(address)
    assert at(port, port) == [Listener(shown, port, os.getpid(), own_name())]


def test_a_listener_that_only_speaks_ipv6_does_not_matter(listen: Listen) -> None:
    port = listen("::1")
    assert at(port, port) == []


def test_who_it_is_is_asked_only_for_a_port_of_interest(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listen("127.0.0.1")
    asked: list[bool] = []
    owners = host_module._owners

    def asking() -> dict[tuple[str, int], tuple[int | None, str]]:
        asked.append(True)
        return owners()

    monkeypatch.setattr(host_module, "_owners", asking)
    assert at(port) == [Listener("127.0.0.1", port)]
    assert at(port, port + 1 if port < 65535 else 1024) == [Listener("127.0.0.1", port)]
    assert asked == []
    at(port, port)
    assert asked == [True]


def test_a_connection_is_no_listener(listen: Listen) -> None:
    port = listen("127.0.0.1")
    with socket.create_connection(("127.0.0.1", port)) as client:
        mine = client.getsockname()[1]
        assert at(mine, mine) == []
        assert len(at(port, port)) == 1


def test_a_port_of_another_process_is_told_as_its(listen: Listen) -> None:
    script = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        [found] = at(port, port)
        assert found.pid == other.pid
        assert found.owner.startswith("python")
        other.kill()


def test_a_table_that_the_kernel_does_not_have_is_empty() -> None:
    """`/proc/net/tcp6` is not there without IPv6."""
    assert host_module._listening(Path("/proc/net/none")) == []


def test_its_clock_counts_from_boot_and_its_boot_has_a_name() -> None:
    host = LinuxHost(Path("/"))
    assert len(host.boot_id) == 36
    before = host.boottime()
    assert before <= time.clock_gettime(time.CLOCK_BOOTTIME) <= host.boottime()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(uptime - host.boottime()) < 5


def test_memory_is_the_least_of_what_the_host_has_and_what_the_container_may_use(
    tmp_path: Path,
) -> None:
    """Sabotage: take the host's. A guest larger than its container is then begun and killed."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) << 10
    none, limit = tmp_path / "none", tmp_path / "memory.max"
    assert memory([none]) == total
    for told, least in (("max\n", total), (f"{64 << 20}\n", 64 << 20), (f"{1 << 62}\n", total)):
        limit.write_text(told)
        assert memory([none, limit]) == least


# Uids that a process may be given

SHOW = """
import sys
from agent.host import run_as_range
print("here", flush=True)
sys.stdin.readline()
print(run_as_range())
"""
FULL = 4_294_967_295


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can map users as it likes")
@pytest.mark.parametrize(
    ("mapped", "uids"),
    [
        (f"0 0 {FULL}", range(1_900_000_000, 1_900_100_000)),
        ("0 0 65536", range(60_578, 61_184)),
        ("0 0 1\n60578 160578 606", range(60_578, 61_184)),
        ("0 0 1\n60578 160578 605", None),
        ("0 0 1", None),
        ("1000 0 1", None),
    ],
    ids=["host", "container", "exactly", "one-short", "one", "not-root"],
)
def test_uids_are_given_only_where_they_are_mapped(mapped: str, uids: range | None) -> None:
    """Sabotage: give out the first range wherever the agent is root. setuid(2) then fails with EINVAL."""
    with subprocess.Popen(
        ["unshare", "--user", sys.executable, "-c", SHOW],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            if child.stdout.readline() != "here\n":
                pytest.skip("no user namespace can be made here")
            Path(f"/proc/{child.pid}/uid_map").write_text(f"{mapped}\n")
            said, _ = child.communicate("\n")
        finally:
            child.kill()
    assert said.strip() == str(uids)


@pytest.mark.skipif(os.geteuid() == 0, reason="root is given uids")
def test_an_agent_that_is_not_root_gives_none() -> None:
    assert run_as_range() is None


LEASED = """
import json, sys
from agent.cli.compose import policy_of
from agent.config import Settings
ports = policy_of(Settings(), "0c8a3a3e-7f6b-4a53-9b3a-2f6d8b0a8f11", "tcg").ssh_ports
print(json.dumps([ports.start, ports.stop]))
"""
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.parametrize("kernel", [None, "32768 60999", "20000 60999", "1024 40000"])
def test_ports_are_leased_from_where_the_kernel_takes_none(kernel: str | None) -> None:
    """By the range that the kernel has here, and in networks of their own. Sabotage: always lease from the usual."""
    show = f"echo {kernel} >{RANGE} && " if kernel else ""
    within = ["unshare", "--net"] if kernel else []
    told = subprocess.run(
        [
            *within,
            "sh",
            "-c",
            f'{show}cat {RANGE} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            LEASED,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if kernel and not told.stdout:
        pytest.skip(f"no network of its own can be made here: {told.stderr}")
    assert told.returncode == 0, told.stderr
    taken, leased = told.stdout.splitlines()
    first, last = map(int, taken.split())
    start, stop = json.loads(leased)
    assert stop - start >= ENOUGH
    assert stop <= first or start > last


def test_a_kernel_that_takes_ports_anywhere_leaves_the_usual_range() -> None:
    assert ssh_ports(range(1024, 65536)) == SSH_PORTS
