"""What is to be done where QEMU says that it cannot listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.hypervisor.qemu.start import port_hint

FIRST = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


@pytest.mark.parametrize(("port", "said"), [(FIRST - 1, "root's alone"), (FIRST, "something else")])
def test_a_port_of_root_is_told_from_one_that_is_taken(port: int, said: str) -> None:
    """Sabotage: take every port that cannot be had for one that another has."""
    if port < 0:
        pytest.skip("no port is root's alone here")
    words = f"Could not set up host forwarding rule 'tcp:127.0.0.1:{port}-:80'"
    assert said in port_hint(words)


def test_other_words_of_qemu_have_no_such_hint() -> None:
    assert port_hint("Could not open disk.qcow2") == ""
