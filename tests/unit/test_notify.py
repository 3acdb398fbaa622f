"""What a service manager is told, on a socket like its own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from agent.notify import Manager
from tests.listening import ear


@pytest.mark.parametrize("abstract", [False, True])
def test_each_word_is_one_datagram(tmp_path: Path, abstract: bool) -> None:
    address = f"@holdfast-{uuid.uuid4()}" if abstract else str(tmp_path / "notify")
    with ear(address) as heard:
        manager = Manager(address, 1.0)
        manager.ready()
        manager.alive()
        manager.leaving()
        assert heard.words() == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_no_sign_of_life_is_given_where_nobody_waits_for_one(tmp_path: Path) -> None:
    with ear(tmp_path / "notify") as heard:
        manager = Manager(heard.address)
        manager.alive()
        assert heard.words() == []


@pytest.mark.parametrize("address", [None, "/nowhere/at/all", "@nobody-here", "x" * 300])
def test_nobody_to_tell_is_no_trouble(address: str | None) -> None:
    manager = Manager(address, 1.0)
    manager.ready()
    manager.alive()


def test_a_manager_that_does_not_listen_holds_nothing_up(tmp_path: Path) -> None:
    """Sabotage: let the socket block."""
    with ear(tmp_path / "notify") as heard:
        manager = Manager(heard.address, 1.0)
        for _ in range(10_000):
            manager.alive()
        assert 0 < heard.count("WATCHDOG=1") < 10_000


@pytest.mark.parametrize(
    ("said", "every"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "4"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "5"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_says_who_waits_and_is_not_passed_on(
    said: dict[str, str], every: float | None
) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": "/run/systemd/notify", **said}
    assert Manager.of(environment, 4).every == every
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & environment.keys()


def test_a_deadline_without_a_socket_is_none() -> None:
    assert Manager.of({"WATCHDOG_USEC": "1000000"}, 4).every is None
