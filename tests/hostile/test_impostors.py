"""Whoever answers on a guest's SSH port learns nothing unless it is that guest, and of us only our own key."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

from agent.errors import HoldfastError, NotReady
from agent.guest import keys
from agent.guest.ssh import HostKeyChanged, SshDoorway, endpoint, session
from agent.paths import StatePaths
from state.ids import Name, instance_uid
from tests.builders import STATE_ID
from tests.hostile.impostors import Impostor, keyed, pinned, serving

WEB = Name("web")
UID = instance_uid(STATE_ID, "vm", WEB, 1)


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return keyed(tmp_path / "state", WEB)


async def test_a_man_in_the_middle_is_shown_no_key_and_no_name(paths: StatePaths) -> None:
    """Somebody took the port after its VM had died, say. Sabotage: accept the key that is shown."""
    other = pinned(paths, Name("db"))
    impostor = Impostor(lets_in=True)
    with serving(impostor, other) as port:
        with pytest.raises(HostKeyChanged, match="not the one that this guest was given"):
            await SshDoorway(paths).enter(UID, WEB, port, "root")
        with pytest.raises(HostKeyChanged):
            await SshDoorway(paths).answers(UID, WEB, port, "root")
    assert (impostor.logins, impostor.keys, impostor.asked) == ([], [], [])


async def test_a_key_of_another_kind_is_none_though_its_bytes_were_the_same(
    paths: StatePaths,
) -> None:
    """A client that settles for whatever kind the other side offers would be shown one that nobody has pinned."""
    impostor = Impostor(lets_in=True)
    refused = pytest.raises(HoldfastError, match="logging into web")
    with serving(impostor, paramiko.ECDSAKey.generate()) as port, refused:
        await SshDoorway(paths).enter(UID, WEB, port, "root")
    assert (impostor.logins, impostor.keys) == ([], [])


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """An operator with keys in their home and an agent; whether anybody has asked that agent."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for kind in ("ed25519", "ecdsa"):
        words = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", home / ".ssh" / f"id_{kind}"]
        subprocess.run(words, check=True)
    (home / ".ssh/config").write_text(
        "Host *\n  IdentityFile ~/.ssh/id_ecdsa\n  ForwardAgent yes\n"
    )
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.setblocking(False)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

        def asked() -> bool:
            with suppress(BlockingIOError):
                agent.accept()[0].close()
                return True
            return False

        yield asked


async def test_the_operators_keys_and_agent_are_never_offered(
    paths: StatePaths, operator: Callable[[], bool]
) -> None:
    """The guest itself is hostile: it refuses our key, to see which come next."""
    guest = Impostor()
    refused = pytest.raises(NotReady, match="the guest refuses our key")
    with serving(guest, pinned(paths, WEB)) as port, refused:
        await SshDoorway(paths).enter(UID, WEB, port, "root")
    ours = " ".join(keys.client_key(paths).public.split()[:2])
    assert set(guest.keys) == {ours}
    assert guest.passwords == []
    assert not operator()


async def test_neither_agent_nor_display_is_offered_to_a_guest_that_lets_us_in(
    paths: StatePaths, operator: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    guest = Impostor(lets_in=True)
    with serving(guest, pinned(paths, WEB)) as port:
        with pytest.raises(HoldfastError):
            await SshDoorway(paths).enter(UID, WEB, port, "root")
        to = endpoint(paths, WEB, port, "root")
        with session(paths, WEB, to, 20.0) as transport:
            transport.open_session(timeout=20.0).close()
    assert set(guest.asked) <= {"session", "exec"}
    assert not operator()
