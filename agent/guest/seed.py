"""The NoCloud seed: the small CD-ROM from which a new guest learns its name, its keys and its user-data.

It refuses to touch the user-data: what stands in the document reaches the guest byte for byte. What holdfast itself
needs, one login that one key opens and one host key that is known beforehand, travels beside it:

    meta-data     instance-id, host name, the authorized key as `public-keys`
    vendor-data   MIME, two parts: cloud-config with the host key and the login as the default user, which cloud-init
                  applies before its sshd starts; and a script that runs late and mends what user-data has overruled

User-data wins over vendor-data key by key, so the first part suffices for a `users:` list without `default` (the login
comes in by the `user:` key, which no list replaces), for scripts, and for MIME. The script is for user-data with
`user:`, `ssh_keys:`, `disable_root:` or `allow_public_ssh_keys:` of its own, and for a `users:` list that cloud-init
cannot carry out. Only `vendor_data: {enabled: false}` locks us out: that is asked for in so many words.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from agent import durable
from agent.errors import BadInput

LABEL = "CIDATA"
"""The volume label by which cloud-init finds a NoCloud seed."""

EMPTY_USER_DATA = "#cloud-config\n{}\n"

ACCESS_SCRIPT = r"""
# Whatever user-data says about users and keys: this login opens with this key, and the host shows this host key.
# Where cloud-init has seen to that already, nothing below changes anything.

if ! id "$login" >/dev/null 2>&1; then
    shell=$(command -v bash || echo /bin/sh)
    useradd -m -s "$shell" "$login" || useradd -m -s "$shell" -g "$login" "$login" || adduser -D "$login"
    usermod -p '*' "$login" # no password, and yet not a locked account, which some builds of sshd refuse
fi

home=$(getent passwd "$login" | cut -d : -f 6)
keys="$home/.ssh/authorized_keys"
if [ -n "$home" ] && ! grep -qxF -e "$authorized_key" "$keys" 2>/dev/null; then
    # On top: sshd goes by the first line with a key, and cloud-init may have written one that only says "go away".
    umask 077
    mkdir -p "$home/.ssh"
    { printf '%s\n' "$authorized_key"; cat "$keys" 2>/dev/null; } >"$keys.holdfast"
    mv "$keys.holdfast" "$keys"
    chown "$login:" "$home/.ssh" "$keys"
    command -v restorecon >/dev/null && restorecon -R "$home/.ssh"
fi

file=/etc/ssh/ssh_host_ed25519_key
if [ "$(cat "$file" 2>/dev/null)" != "$host_key" ]; then
    umask 077
    printf '%s\n' "$host_key" >"$file"
    printf '%s\n' "$host_key_public" >"$file.pub"
    for unit in ssh sshd; do
        systemctl try-reload-or-restart "$unit" 2>/dev/null || service "$unit" restart 2>/dev/null
    done
fi
exit 0
"""


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key by which a guest is recognised; it exists before the guest does."""

    private: str
    """OpenSSH PEM text of an ed25519 private key."""
    public: str
    """`ssh-ed25519 AAAA…`, one line."""

    def __repr__(self) -> str:
        return f"HostKey(public={self.public!r})"


@dataclass(frozen=True, slots=True)
class Seed:
    """What one instance is told at its first boot."""

    instance_id: str
    """New for every instance: cloud-init skips what it has already done for the same id."""
    hostname: str
    login: str
    """Who may log in: the image's `ssh_user`."""
    authorized_key: str
    """`ssh-ed25519 AAAA… comment`, one line."""
    host_key: HostKey
    user_data: str | None
    """Passed through unchanged; None: there is none."""


def files(seed: Seed) -> dict[str, bytes]:
    """The files of the seed by name. Text that no UTF-8 can hold (a lone surrogate) raises `BadInput`."""
    texts = {
        "meta-data": _meta_data(seed),
        "user-data": EMPTY_USER_DATA if seed.user_data is None else seed.user_data,
    }
    try:
        texts["vendor-data"] = _vendor_data(seed)
        return {name: text.encode() for name, text in texts.items()}
    except UnicodeEncodeError as error:
        what = f"the seed of {_scalar(seed.hostname)} cannot be written as UTF-8"
        raise BadInput(f"{what}: {error.reason}") from error


def write(seed: Seed, path: Path) -> None:
    """Put the seed at `path` as an ISO 9660 image, mode 0600: complete and on disk, or not at all."""
    durable.write(path, _iso9660(files(seed), path.name), replace=True)


def _meta_data(seed: Seed) -> str:
    # One value a line, so that a guest without a YAML parser can read it; `holdfast` is a key of our own.
    return (
        f"instance-id: {_scalar(seed.instance_id)}\n"
        f"local-hostname: {_scalar(seed.hostname)}\n"
        f"public-keys: [{_scalar(seed.authorized_key)}]\n"
        f'holdfast: {{"login": {_scalar(seed.login)}}}\n'
    )


def _vendor_data(seed: Seed) -> str:
    cloud_config, script = _cloud_config(seed), _access_script(seed)
    # A digest of the content cannot stand in the content: no value can end a part early.
    boundary = f"holdfast-{hashlib.sha256((cloud_config + script).encode()).hexdigest()}"
    # Base64, because the parser in cloud-init garbles plain text beyond ASCII.
    encoded = base64.encodebytes(script.encode()).decode()
    return (
        f'Content-Type: multipart/mixed; boundary="{boundary}"\n'
        "MIME-Version: 1.0\n"
        "\n"
        f"--{boundary}\n"
        'Content-Type: text/cloud-config; charset="us-ascii"\n'
        'Content-Disposition: attachment; filename="holdfast.cfg"\n'
        "\n"
        f"{cloud_config}"
        f"--{boundary}\n"
        'Content-Type: text/x-shellscript; charset="utf-8"\n'
        "Content-Transfer-Encoding: base64\n"
        'Content-Disposition: attachment; filename="holdfast-access"\n'
        "\n"
        f"{encoded}"
        f"--{boundary}--\n"
    )


def _cloud_config(seed: Seed) -> str:
    # Root gets the keys of meta-data in any case; elsewhere the login becomes the default user, who gets them.
    access = (
        "disable_root: false\n"
        if seed.login == "root"
        else f'user: {{"name": {_scalar(seed.login)}}}\n'
    )
    return (
        "#cloud-config\n"
        f"{access}"
        "ssh_pwauth: false\n"
        "ssh_deletekeys: true\n"
        "ssh_keys:\n"
        f"  ed25519_private: {_scalar(seed.host_key.private)}\n"
        f"  ed25519_public: {_scalar(seed.host_key.public)}\n"
    )


def _access_script(seed: Seed) -> str:
    values = {
        "login": seed.login,
        "authorized_key": seed.authorized_key,
        "host_key": seed.host_key.private.rstrip("\n"),
        "host_key_public": seed.host_key.public,
    }
    assignments = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return f"#!/bin/sh\n{assignments}{ACCESS_SCRIPT}"


def _scalar(text: str) -> str:
    """`text` as a YAML scalar on one line of ASCII: JSON's quotes, with YAML's escapes for what JSON would split."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if character == "\n":
        return "\\n"
    if 0x20 <= code < 0x7F:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _iso9660(content: dict[str, bytes], name: str) -> bytes:
    from pycdlib import PyCdlib
    from pycdlib.pycdlibexception import PyCdlibException

    disc, image = PyCdlib(), BytesIO()
    try:
        disc.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
        for file_name, data in content.items():
            short = file_name.upper().replace("-", "_")
            disc.add_fp(
                BytesIO(data),
                len(data),
                f"/{short}.;1",
                rr_name=file_name,
                joliet_path=f"/{file_name}",
            )
        disc.write_fp(image)
        disc.close()
    except PyCdlibException as error:
        raise BadInput(f"the seed {name} cannot be made into an ISO 9660 image: {error}") from error
    return image.getvalue()
