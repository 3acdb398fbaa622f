"""The NoCloud seed: the little CD-ROM from which a new guest learns its name, its keys and its user-data.

It refuses to touch the user's user-data: what was written in the document reaches the guest byte for byte.
What holdfast itself needs, one login over SSH and one host key that is known beforehand, goes around it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

NOTHING_WANTED = "#cloud-config\n{}\n"


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key by which a guest is recognised, made before the guest is."""

    private: str
    """OpenSSH PEM text of an ed25519 private key."""
    public: str
    """`ssh-ed25519 AAAA…`, one line."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What one instance is told at its first boot."""

    instance_id: str
    """New for every instance: cloud-init skips its modules for an instance-id that it has seen."""
    hostname: str
    login: str
    """The user who may log in: the image's `ssh_user`."""
    authorized_key: str
    """`ssh-ed25519 AAAA… comment`, one line."""
    host_key: HostKey
    user_data: str | None


def files(seed: Seed) -> dict[str, bytes]:
    """The files of the seed by name."""
    return {
        "meta-data": _meta_data(seed).encode(),
        "user-data": (NOTHING_WANTED if seed.user_data is None else seed.user_data).encode(),
        "vendor-data": _cloud_config(seed).encode(),
    }


def _meta_data(seed: Seed) -> str:
    return (
        f"instance-id: {_quoted(seed.instance_id)}\n"
        f"local-hostname: {_quoted(seed.hostname)}\n"
        f"public-keys: [{_quoted(seed.authorized_key)}]\n"
        f'holdfast: {{"login": {_quoted(seed.login)}}}\n'
    )


def _cloud_config(seed: Seed) -> str:
    return (
        "#cloud-config\n"
        "ssh_pwauth: false\n"
        "ssh_deletekeys: true\n"
        'ssh_genkeytypes: ["ed25519"]\n'
        "ssh_keys:\n"
        f"  ed25519_private: {_quoted(seed.host_key.private)}\n"
        f"  ed25519_public: {_quoted(seed.host_key.public)}\n"
    )


def _quoted(text: str) -> str:
    return json.dumps(text)


def write(seed: Seed, path: Path) -> None:
    from pycdlib import PyCdlib

    disc = PyCdlib()
    disc.new(interchange_level=3, vol_ident="CIDATA", joliet=3, rock_ridge="1.09")
    for name, content in files(seed).items():
        disc.add_fp(
            BytesIO(content), len(content), f"/{name.upper().replace('-', '_')}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    disc.write(str(path))
    disc.close()
