"""Where the source of an image lies: a URL of the network, or a file that the operator allows to be one.

A document's author chooses what runs in a virtual machine, and must not thereby read the host's files: a local image
lies in the tree or in a directory that the operator named, after every symbolic link has been followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.errors import BadInput
from agent.source.files import inside, is_git
from state.spec.images import ImageEntry
from state.spec.words import quoted


class Outside(BadInput):
    """A local source lies where none may come from; `url` is where."""

    def __init__(self, url: str) -> None:
        super().__init__(
            "lies outside the directories that images may come from",
            hint="put it into the tree, or allow its directory with --image-root",
        )
        self.url = url


_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):").match


def placed(entry: ImageEntry, base: Path | None, roots: Sequence[Path]) -> str:
    """The absolute URL of an image's source. `base` is the directory of its document, None where that lies in none.
    Raises BadInput with the rest of a sentence about the source; Outside where all that is wrong is where it lies."""
    if entry.source is None:
        return local_path_of(entry, base, roots)
    source = entry.source
    if not source.isprintable() or " " in source:
        raise BadInput("has characters that no URL has", hint="write them as %20 and the like")
    found = _scheme(source)
    match found.group(1).lower() if found else None:
        case None:
            return _local(source, base, roots)
        case "https" | "http":
            return _remote(source)
        case "file":
            return _local(_path_of(source), base, roots)
        case scheme:
            hint = "write an https, http or file URL, or a path; `./` before a path with a colon"
            raise BadInput(f"has the scheme {quoted(scheme)}, which is not supported", hint=hint)


def local_path_of(entry: ImageEntry, base: Path | None, roots: Sequence[Path]) -> str:
    """The URL of an image's `local_path`. Raises as `placed` does."""
    return _local(entry.local_path or "", base, roots)


def _remote(source: str) -> str:
    try:
        parts = urlsplit(source)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise BadInput(f"is no URL: {error}") from error
    if not host:
        raise BadInput("names no host", hint="write https://HOST/PATH")
    if user is not None or parts.password is not None:
        raise BadInput("has a user name or password in it", hint="remove them")
    return source


def _path_of(source: str) -> str:
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise BadInput(f"is no URL: {error}") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadInput("is no file URL of this host", hint="write file:///PATH")
    if not parts.path.startswith("/"):
        raise BadInput("is no absolute file URL", hint="write file:///PATH, or the path alone")
    return unquote(parts.path)


def _local(path: str, base: Path | None, roots: Sequence[Path]) -> str:
    if not path.isprintable():
        raise BadInput("has characters that do not print")
    if base is None and not path.startswith("/"):
        raise BadInput("is a relative path, and this source has no directory", hint="write a URL")
    real = os.path.realpath(os.path.join(base or "/", path))
    if not any(inside(real, os.path.realpath(root)) for root in roots):
        raise Outside(Path(real).as_uri())
    if is_git(real):
        raise BadInput("lies in .git, which is no part of the tree")
    return Path(real).as_uri()
