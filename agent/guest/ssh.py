"""Into a guest over SSH, with our key and the host key that we gave it: the only doorway to paramiko.

No key is accepted blindly, no key but ours is offered, and no agent or known_hosts file of the operator is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.errors import HoldfastError, NotReady, SessionLost
from agent.guest import keys
from agent.guest.knocking import BANNER_TIMEOUTS, banner, knocks
from agent.guest.session import GuestSession
from agent.guest.sftp import Broken, Refused
from agent.paths import StatePaths
from agent.worker import alone
from state.ids import Name, Uid
from state.spec.words import printable

if TYPE_CHECKING:
    import paramiko

    Channel = paramiko.Channel
    Transport = paramiko.Transport

LOGIN_TIMEOUT = 20.0
"""Seconds for key exchange, login and one command; a guest under emulation takes two for its first key exchange."""
_KNOCKERS = 8
_FOR_US = b"holdfast "
_LONGEST_ANSWER = 64 << 10
_NO_STATUS = -1
"""The exit status of a command that told none, as when the connection broke."""


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
    tried = f"logging into {name} as {to.user} on {to.address}:{to.port}"
    transport = _logged_in(paths, to, tried, timeout)
    try:
        yield transport
    finally:
        transport.close()


def _logged_in(paths: StatePaths, to: Endpoint, tried: str, timeout: float) -> paramiko.Transport:
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    transport: paramiko.Transport | None = None
    try:
        connection = socket.create_connection((to.address, to.port), timeout=timeout)
        transport = paramiko.Transport(connection)
        # It comes within the greeting, whose time is over first, and is told of in words of ours.
        transport.banner_timeout = timeout + LOGIN_TIMEOUT
        transport.auth_timeout = timeout
        transport.get_security_options().key_types = ("ssh-ed25519",)
        transport.start_client(timeout=timeout)
        _check_host_key(transport, to, tried)
        key = paramiko.Ed25519Key.from_private_key_file(str(paths.client_key))
        transport.auth_publickey(to.user, key)
    except Exception as error:
        if transport is not None:
            transport.close()
        if isinstance(error, HoldfastError):
            raise
        if isinstance(error, paramiko.AuthenticationException):
            raise NotReady(f"{tried}: the guest refuses our key") from error
        # Whatever the other side sends may surface here: the library passes on what its own thread met.
        raise NotReady(printable(f"{tried}: {str(error) or type(error).__name__}")) from error
    return transport


def _check_host_key(transport: paramiko.Transport, to: Endpoint, tried: str) -> None:
    if not transport.initial_kex_done:  # `start_client` returns all the same when its time is over
        raise NotReady(f"{tried}: no answer in time")
    shown = transport.get_remote_server_key()
    if f"{shown.get_name()} {shown.get_base64()}".split() != to.host_key.split()[:2]:
        raise HostKeyChanged(
            f"{tried}: the host key is not the one that this guest was given",
            hint="another program may have taken the port; see who listens on it",
        )


def channel_of(transport: paramiko.Transport, name: Name) -> Channel:
    """A new channel to the guest of `name`. Raises NotReady."""
    try:
        return transport.open_session(timeout=LOGIN_TIMEOUT)
    except Exception as error:
        raise NotReady(
            f"talking to {name}: the connection broke: {str(error) or type(error).__name__}"
        ) from error


class Tunnel:
    """A login into a guest that is kept, and through which the guest's own ports are reached from inside.

    Its methods block. One thread at a time uses it, but any may close it.
    """

    def __init__(self, paths: StatePaths, name: Name, to: Endpoint) -> None:
        self.to = to
        self._paths, self._name = paths, name
        self._transport: paramiko.Transport | None = None
        self._closed = False

    def reach(self, port: int, timeout: float) -> Channel:
        """A connection to `port` on the guest's own loopback; its reads and writes take `timeout` seconds at most.
        Raises NotReady, HostKeyChanged."""
        import paramiko

        transport = self._login(timeout)
        try:
            channel = transport.open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=timeout
            )
        except paramiko.ChannelException as error:
            raise NotReady(f"nothing in the guest accepts a connection to port {port}") from error
        except Exception as error:
            transport.close()
            why = str(error) or type(error).__name__
            raise NotReady(printable(f"the connection to {self._name} broke: {why}")) from error
        channel.settimeout(timeout)
        return channel

    def _login(self, timeout: float) -> paramiko.Transport:
        transport = self._transport
        if transport is None or not transport.is_active():
            tried = f"logging into {self._name} on {self.to.address}:{self.to.port}"
            transport = self._transport = _logged_in(self._paths, self.to, tried, timeout)
            if self._closed:
                transport.close()
        return transport

    def close(self) -> None:
        """Log out, also from a login that is under way."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()


class SshLine:
    """A `Line` over SSH.

    A channel is opened only when no command is about to end: dropbear 2022.83 takes the end of one for that of the
    channel that was opened just then, and closes both.
    """

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._lasting: list[Channel] = []
        self._files: Channel | None = None

    def ask(self, command: str, lasting: bytes = b"") -> bytes:
        channel = self._channel()
        try:
            channel.exec_command(command)
            told = _answer(channel)
            if told == lasting:
                # Forgotten, it would be closed.
                self._lasting.append(channel)
            else:
                channel.status_event.wait(LOGIN_TIMEOUT)
        except Exception as error:
            raise self._why(error) from error
        return told

    def sftp(self) -> Channel:
        channel = self._channel()
        try:
            channel.invoke_subsystem("sftp")
        except Exception as error:
            import paramiko

            # What broke the connection is raised as it is.
            if isinstance(error, paramiko.SSHException) and self._transport.is_active():
                raise Refused("it offers no SFTP") from error
            raise self._why(error) from error
        self._files = channel
        return channel

    def cut(self) -> None:
        with suppress(OSError):
            self._transport.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._transport.close()

    def _channel(self) -> Channel:
        if self._files is not None and self._files.eof_received:
            self._files.status_event.wait(LOGIN_TIMEOUT)
        try:
            channel = self._transport.open_session(timeout=LOGIN_TIMEOUT)
        except Exception as error:
            raise self._why(error) from error
        channel.settimeout(LOGIN_TIMEOUT)
        return channel

    def _why(self, error: Exception) -> Exception:
        return error if isinstance(error, Refused) else Broken(str(error) or type(error).__name__)


def _answer(channel: Channel) -> bytes:
    """The first line that is for us; what start-up files of the login print before it is not."""
    said = b""
    while len(said) < _LONGEST_ANSWER and (piece := channel.recv(4096)):
        said += piece
        for line in said.split(b"\n")[:-1]:
            if line.startswith(_FOR_US):
                return line.removeprefix(_FOR_US)
    channel.status_event.wait(LOGIN_TIMEOUT)
    if channel.exit_status == _NO_STATUS and len(said) < _LONGEST_ANSWER:
        raise Broken("the connection was closed")
    why = channel.recv_stderr(4096) if channel.recv_stderr_ready() else said
    told = " ".join(why.decode("utf-8", "replace").split()) or "it says nothing"
    raise Refused(f"its shell does not do as it is told: {told[:200]}")


class SshDoorway:
    """Asks guests whether they let us in, and goes in."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._knockers = asyncio.Semaphore(_KNOCKERS)
        self._tries: dict[Uid, int] = {}

    async def answers(self, uid: Uid, name: Name, port: int, user: str) -> None:
        await banner(name, port, self._patience(uid))
        async with self._knockers:
            await alone("ssh", lambda: self._login(name, port, user))
        self._tries.pop(uid, None)

    async def enter(self, uid: Uid, name: Name, port: int, user: str) -> GuestSession:
        to = endpoint(self._paths, name, port, user)
        tried = f"logging into {name} as {user} on {to.address}:{port}"
        await knocks(name, port, self._patience(uid))
        try:
            entered = await GuestSession.open(
                name,
                lambda: SshLine(_logged_in(self._paths, to, tried, LOGIN_TIMEOUT)),
                3 * LOGIN_TIMEOUT,
            )
        except SessionLost as error:
            raise NotReady(error.message) from error
        self._tries.pop(uid, None)
        return entered

    def _patience(self, uid: Uid) -> float:
        """How long this try waits for the banner. That comes before a login: it is cheap, and most tries end there."""
        tries = self._tries.get(uid, 0)
        self._tries[uid] = tries + 1
        return BANNER_TIMEOUTS[tries % len(BANNER_TIMEOUTS)]

    def _login(self, name: Name, port: int, user: str) -> None:
        to = endpoint(self._paths, name, port, user)
        with session(self._paths, name, to, LOGIN_TIMEOUT) as transport:
            channel = channel_of(transport, name)
            try:
                channel.settimeout(LOGIN_TIMEOUT)
                channel.exec_command("true")
                answered = channel.status_event.wait(LOGIN_TIMEOUT) and channel.exit_status == 0
            except Exception as error:
                raise NotReady(f"running `true` in {name}: {error!r}") from error
            if not answered:
                raise NotReady(f"running `true` in {name}: no exit status came")
