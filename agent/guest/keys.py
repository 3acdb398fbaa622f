"""The key pairs of one state directory: the client's, which every guest lets in, and one host key for each vm's name.

A pair is made once and kept, so that a replaced machine shows the key that its predecessor showed. It refuses to read
any key outside the state directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent import durable
from agent.errors import StateUnusable
from agent.paths import StatePaths
from state.ids import Name


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 pair in OpenSSH's format: `private` is PEM text, `public` one line `ssh-ed25519 AAAA… comment`."""

    private: str = field(repr=False)
    public: str


def client_key(paths: StatePaths) -> KeyPair:
    """The pair by which the agent logs into every guest of this state; made at the first call."""
    durable.directory(paths.keys)
    return _kept(paths.client_key, "holdfast")


def host_key(paths: StatePaths, name: Name) -> KeyPair:
    """The pair by which the vm `name` is recognised; made at the first call for that name."""
    durable.directory(paths.keys)
    durable.directory(paths.host_keys)
    return _kept(paths.host_keys / name, name)


def _kept(path: Path, comment: str) -> KeyPair:
    """The pair at `path` and `path.pub`. The private file decides; the public one is made anew from it where it lacks.

    Raises StateUnusable for a private file that holds no such key: it is never replaced, since guests know it.
    """
    try:
        return _read_or_made(path, comment)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StateUnusable(
            f"the key {path} cannot be used: {why}",
            hint="make it readable for this user, or restore it from a backup",
        ) from error


def _read_or_made(path: Path, comment: str) -> KeyPair:
    try:
        private = path.read_bytes()
    except FileNotFoundError:
        durable.write(path, _made(), replace=False)
        private = path.read_bytes()
    public_path = path.with_name(path.name + ".pub")
    try:
        public = public_path.read_text().strip()
    except FileNotFoundError:
        public = f"{_public_of(private, path)} {comment}"
        durable.write(public_path, f"{public}\n".encode(), replace=True, mode=0o644)
    return KeyPair(private.decode(), public)


def _made() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )


def _public_of(private: bytes, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    try:
        key = load_ssh_private_key(private, None)
    except ValueError as error:
        raise StateUnusable(
            f"{path} holds no OpenSSH private key", hint="restore it from a backup"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StateUnusable(f"{path} holds no ed25519 key", hint="restore it from a backup")
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
