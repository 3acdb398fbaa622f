"""Into a guest over SSH, with our key and the host key that we gave it: the only doorway to paramiko.

No key is accepted blindly, no key but ours is offered, and no agent or known_hosts file of the operator is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.errors import HoldfastError, NotReady
from agent.guest import keys
from agent.paths import StatePaths
from state.ids import Name, Uid

if TYPE_CHECKING:
    import paramiko

    Channel = paramiko.Channel

BANNER_TIMEOUT = 3.0
LOGIN_TIMEOUT = 20.0
"""Seconds for key exchange, login and one command; a guest under emulation takes two for its first key exchange."""
_KNOCKERS = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom a guest is reached. `host_key` is the public key that it must show, `ssh-ed25519 AAAA…`."""

    address: str
    port: int
    user: str
    host_key: str = field(repr=False)


class HostKeyChanged(HoldfastError):
    """Somebody who does not hold the pinned host key answers on a guest's port."""


def endpoint(paths: StatePaths, name: Name, port: int, user: str) -> Endpoint:
    """How the guest of `name` is reached."""
    return Endpoint("127.0.0.1", port, user, keys.host_key(paths, name).public)


@contextmanager
def session(
    paths: StatePaths, name: Name, to: Endpoint, timeout: float
) -> Iterator[paramiko.Transport]:
    """An authenticated transport to the guest of `name`. Raises NotReady while it does not let us in, HostKeyChanged
    when another answers in its place."""
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    tried = f"logging into {name} as {to.user} on {to.address}:{to.port}"
    transport: paramiko.Transport | None = None
    try:
        connection = socket.create_connection((to.address, to.port), timeout=timeout)
        transport = paramiko.Transport(connection)
        transport.banner_timeout = timeout
        transport.auth_timeout = timeout
        transport.get_security_options().key_types = ("ssh-ed25519",)
        transport.start_client(timeout=timeout)
        shown = transport.get_remote_server_key()
        if f"{shown.get_name()} {shown.get_base64()}".split() != to.host_key.split()[:2]:
            raise HostKeyChanged(
                f"{tried}: the host key is not the one that this guest was given",
                hint="another program may have taken the port; see who listens on it",
            )
        key = paramiko.Ed25519Key.from_private_key_file(str(paths.client_key))
        transport.auth_publickey(to.user, key)
        yield transport
    except paramiko.AuthenticationException as error:
        raise NotReady(f"{tried}: the guest refuses our key") from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise NotReady(f"{tried}: {str(error) or type(error).__name__}") from error
    finally:
        if transport is not None:
            transport.close()


class SshDoorway:
    """Asks guests whether they let us in."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._pool = ThreadPoolExecutor(_KNOCKERS, thread_name_prefix="ssh")

    async def answers(self, uid: Uid, name: Name, port: int, user: str) -> None:
        """Banner first, for that is cheap and most tries end there; then a login and `true`."""
        await _banner(name, port)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._login, name, port, user)

    def _login(self, name: Name, port: int, user: str) -> None:
        to = endpoint(self._paths, name, port, user)
        with session(self._paths, name, to, LOGIN_TIMEOUT) as transport:
            channel = transport.open_session(timeout=LOGIN_TIMEOUT)
            channel.settimeout(LOGIN_TIMEOUT)
            channel.exec_command("true")
            if not channel.status_event.wait(LOGIN_TIMEOUT) or channel.exit_status != 0:
                raise NotReady(f"running `true` in {name}: no exit status came")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _banner(name: Name, port: int) -> None:
    """User-mode networking accepts for the guest, so only words from the other side prove that somebody is there."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(BANNER_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = await reader.read(4)
    except (OSError, TimeoutError) as error:
        raise NotReady(f"knocking at {name} on port {port}: {str(error) or 'no answer'}") from error
    finally:
        if writer is not None:
            writer.close()
    if line != b"SSH-":
        raise NotReady(f"knocking at {name} on port {port}: nobody speaks SSH there yet")
