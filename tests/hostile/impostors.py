"""An SSH server where a guest's should be: it notes what is shown to it, and lets nobody in."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from agent.guest import keys
from agent.paths import StatePaths
from state.ids import Name


@dataclass
class Impostor(paramiko.ServerInterface):
    """What a client has tried: the names, keys and passwords of logins, and its requests."""

    lets_in: bool = False
    logins: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def get_allowed_auths(self, username: str) -> str:
        self.logins.append(username)
        return "publickey,password,keyboard-interactive"

    def check_auth_none(self, username: str) -> int:
        self.logins.append(username)
        return AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self.passwords.append(password)
        return AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.logins.append(username)
        self.keys.append(f"{key.get_name()} {key.get_base64()}")
        return AUTH_SUCCESSFUL if self.lets_in else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.asked.append(kind)
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.append("exec")
        return False

    def check_channel_forward_agent_request(self, channel: paramiko.Channel) -> bool:
        self.asked.append("auth-agent-req")
        return True

    def check_channel_x11_request(self, channel: paramiko.Channel, *_: object) -> bool:
        self.asked.append("x11-req")
        return True


def keyed(root: Path, name: Name) -> StatePaths:
    """A state directory with our key, and the host key of one guest."""
    made = StatePaths(root)
    made.root.mkdir(mode=0o700)
    keys.client_key(made)
    keys.host_key(made, name)
    return made


def pinned(paths: StatePaths, name: Name) -> paramiko.PKey:
    """The host key that the guest was given, with its private part."""
    return paramiko.Ed25519Key.from_private_key(io.StringIO(keys.host_key(paths, name).private))


@contextmanager
def serving(impostor: Impostor, key: paramiko.PKey) -> Iterator[int]:
    """Serve everybody who comes, with this host key; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        stop = threading.Event()
        transports: list[paramiko.Transport] = []

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transports.append(transport)
                transport.start_server(event=threading.Event(), server=impostor)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for transport in transports:
                transport.close()
