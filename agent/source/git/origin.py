"""Which repository, branch and directory documents come from, as an operator names them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import BadUsage
from agent.source.tree import shown

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://").match
_scp = re.compile(r"(?:[A-Za-z0-9._-]+@)?(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(?!:|//).+").fullmatch
_ref = re.compile(
    r"(?![-/.])(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)|/\.|[/.]$))[^\x00-\x20\x7f~^:?*\[\\]+"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """`url` as git takes it; `branch` None: the one that the repository's own HEAD names; `below`: a directory of the
    repository, empty for its root."""

    url: str
    branch: str | None = None
    below: str = ""

    def __str__(self) -> str:
        """As status and messages name it."""
        branch = f"#{self.branch}" if self.branch else ""
        return shown(self.url + branch + (f":{self.below}" if self.below else ""))

    @property
    def ref(self) -> str:
        """What is asked for at the server."""
        return f"refs/heads/{self.branch}" if self.branch else "HEAD"

    @property
    def key(self) -> str:
        """The same for the same branch of the same repository; a file name."""
        return hashlib.sha256(f"{self.url}\0{self.ref}".encode()).hexdigest()[:16]


def origin(url: str, branch: str | None, path: str | None) -> Origin:
    """The origin that options say. Raises BadUsage."""
    if branch is not None and not is_ref(branch):
        raise BadUsage(
            f"{shown(branch)!r} is no name of a branch", hint="--branch takes one like main"
        )
    return Origin(_checked(url), branch, _below(path or ""))


def is_ref(name: str) -> bool:
    """Whether git would take it as a name of a ref, or of a branch: git-check-ref-format(1)."""
    return _ref.fullmatch(name) is not None


def _checked(url: str) -> str:
    if not url.isprintable() or url.startswith("-"):
        raise BadUsage(f"{shown(url)!r} is no repository that could be fetched")
    found = _scheme(url)
    scheme = found.group(1).lower() if found else None
    if scheme is None:
        if url.startswith("/") or _scp(url):
            return url
        raise BadUsage(
            f"{shown(url)!r} names no repository",
            hint="say https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or an absolute path",
        )
    if scheme not in ("https", "ssh", "file"):
        raise BadUsage(
            f"{shown(url)!r} has the scheme {scheme}, which holdfast does not fetch from",
            hint="https, ssh and file are known",
        )
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or (scheme == "https" and parts.username is not None)
    except ValueError as error:
        raise BadUsage(f"{shown(url)!r} is no URL: {error}") from error
    if secret:
        raise BadUsage(
            f"the URL of {parts.hostname} has credentials in it, which every list of processes would show",
            hint="leave them to a credential helper of git, or to an SSH key",
        )
    return url


def _below(path: str) -> str:
    below = posixpath.normpath(path).strip("/") if path else ""
    if below == "..":
        below = "../"
    if below.startswith("../") or not below.isprintable():
        raise BadUsage(
            f"{shown(path)!r} is no directory of a repository",
            hint="--path takes one below its root",
        )
    return "" if below == "." else below
