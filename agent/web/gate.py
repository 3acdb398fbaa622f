"""Who may ask what of an agent on an address of its host: to look, whoever can reach it under a name that is its own;
to change something, whoever has its token besides. Pure, but for the file of the token.

A browser asks whatever any page tells it to. Three things keep the page of somebody else from using its visitor's: a
name that anybody can point here is not answered to (DNS rebinding); the token comes in a header, which no browser adds
by itself; and a change that a browser says another page has asked for is refused (Fetch Metadata, `Origin`).
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from agent import durable
from agent.errors import StateUnusable

_BYTES = 32
"""Random ones in a token: nobody tries them all."""
_MOST = 1024
"""Bytes of a token's file."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, with its HTTP status and what to do about it."""

    status: int
    why: str
    hint: str = ""


_WRONG_NAME = Refusal(421, "this is not a name of this host", "ask for its address")
_ELSEWHERE = Refusal(403, "the page of somebody else asked for a change")
_NO_TOKEN = Refusal(
    401,
    "a change takes the agent's token",
    "it lies in the state directory as `token`: say `Authorization: Bearer TOKEN`",
)


@dataclass(frozen=True, slots=True)
class Gate:
    """`names` are those that this host is called by, in lower case."""

    names: frozenset[str]
    token: str

    def refusal(self, headers: Mapping[str, str], *, changes: bool) -> Refusal | None:
        """What stands against a request with such headers (in any case, as HTTP has them); None for nothing."""
        host = headers.get("Host", "")
        if not self._is_called_here(host):
            return _WRONG_NAME
        if not changes:
            return None
        if not _is_of_this_page(headers, host):
            return _ELSEWHERE
        return None if self._has_token(headers.get("Authorization", "")) else _NO_TOKEN

    def _is_called_here(self, host: str) -> bool:
        """Whether the request is for this host under a name of its own, or an address. Any other name can be somebody
        else's. Raises ValueError for what is no host at all."""
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        try:
            ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.names
        return True

    def _has_token(self, said: str) -> bool:
        """Compared in a time that tells nothing of where it differs."""
        scheme, _, token = said.partition(" ")
        given = token.strip().encode(errors="surrogateescape")
        return hmac.compare_digest(given, self.token.encode()) and scheme.lower() == "bearer"


def _is_of_this_page(headers: Mapping[str, str], host: str) -> bool:
    """Whether no other page has asked. Browsers say where a change comes from; programs say nothing."""
    # "none": somebody has typed it. https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def token_of(path: Path) -> str:
    """The token that lies at `path`, made where there is none. Raises StateUnusable for one that others may read or
    that is none."""
    tried = f"reading the token {path}"
    try:
        if not path.exists():
            durable.write(path, f"{secrets.token_urlsafe(_BYTES)}\n".encode(), replace=False)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found, content = os.fstat(descriptor), file.read(_MOST)
    except OSError as error:
        raise StateUnusable(
            f"{tried}: {error.strerror}", hint="remove it, and the agent makes another"
        ) from error
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise StateUnusable(
            f"{tried}: others may read it (mode {mode:04o})",
            hint="remove it, and the agent makes another",
        )
    token = content.decode(errors="replace").strip()
    if len(token) < _BYTES or not (token.isascii() and token.isprintable()):
        raise StateUnusable(
            f"{tried}: it holds none", hint="remove it, and the agent makes another"
        )
    return token
