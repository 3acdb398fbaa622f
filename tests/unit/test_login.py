"""The way of a person into a guest: one that is not there yet is waited for, and who does not answer is told."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from agent.cli import guests
from agent.errors import NotReady
from agent.guest.ssh import endpoint, session
from agent.hypervisor.qemu.process import boot_id, identify
from agent.paths import StatePaths
from state.ids import Name
from state.ledger import Ledger
from tests.builders import running
from tests.hostile.impostors import Impostor, keyed, pinned, serving
from tests.waiting import eventually

WEB = Name("web")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return keyed(tmp_path / "state", WEB)


def recorded(paths: StatePaths, port: int, ready_at: float | None) -> None:
    """`web` runs, as this process, and its guest is reached at the port."""
    with closing(Ledger(paths.database)) as ledger, ledger.transaction() as change:
        change.put_instance(
            running(process=identify(os.getpid(), boot_id()), ssh_port=port, ready_at=ready_at)
        )


class Network:
    """Takes every connection, as user-mode networking does; the first ones, from before there was a guest, hang."""

    def __init__(self, port: int, hang: int) -> None:
        self._port, self._hang = port, hang
        self.came = self.gone = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        if self.came <= self._hang:
            await reader.read()
        else:
            answers, asks = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(passed_on(reader, asks), passed_on(answers, writer))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.gone += 1


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(4096):
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def forwarding(network: Network) -> AsyncIterator[int]:
    server = await asyncio.start_server(network.take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await eventually(lambda: network.gone == network.came, "everybody has left")


async def test_a_connection_from_before_the_guest_had_a_network_holds_nobody_up(
    paths: StatePaths,
) -> None:
    """Sabotage: log in at once."""
    guest = Impostor(lets_in=True)

    def enter() -> bool:
        with guests.entered(paths, "web") as transport:
            return transport.is_authenticated()

    with serving(guest, pinned(paths, WEB)) as behind:
        network = Network(behind, hang=3)
        async with forwarding(network) as port, asyncio.timeout(15):
            recorded(paths, port, ready_at=None)
            assert await asyncio.to_thread(enter)
    assert network.came > 4


async def test_a_guest_that_is_ready_is_asked_once(paths: StatePaths) -> None:
    """Sabotage: knock always, and each login leaves a line more in the guest's log."""
    guest = Impostor(lets_in=True)

    def enter() -> None:
        with guests.entered(paths, "web"):
            pass

    with serving(guest, pinned(paths, WEB)) as behind:
        network = Network(behind, hang=0)
        async with forwarding(network) as port:
            recorded(paths, port, ready_at=1.0)
            await asyncio.to_thread(enter)
    assert network.came == 1


@pytest.mark.parametrize("ready_at", [None, 1.0])
def test_who_is_not_let_in_is_told_what_to_look_at(
    paths: StatePaths, ready_at: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOGIN", "_PATIENCE", "_BOOT", "_KNOCKS"):
        monkeypatch.setattr(guests, name, 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        recorded(paths, port, ready_at)
        with pytest.raises(NotReady) as told, guests.entered(paths, "web"):
            pass
    tried = "knocking at" if ready_at is None else "logging into"
    assert told.value.message.startswith(f"{tried} web ")
    assert "no answer" in told.value.message
    assert told.value.hint == "see whether it still boots: `holdfast console web`"


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-guest\r\n"])
def test_a_guest_that_does_not_come_to_the_end_of_a_greeting_is_told_so(
    paths: StatePaths, banner: bytes
) -> None:
    """Sabotage: believe the library that it is over when its time is; it then knows of "No existing session"."""

    def greet(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.sendall(banner)
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=greet, args=[listener])
        thread.start()
        tried = f"^logging into web as root on 127.0.0.1:{port}: no answer in time$"
        to = endpoint(paths, WEB, port, "root")
        with pytest.raises(NotReady, match=tried), session(paths, WEB, to, 0.5):
            pass
        thread.join()
