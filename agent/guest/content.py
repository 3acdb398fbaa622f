"""Reads what is put into a guest, a piece at a time: it may be a large file of this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.errors import StartFailed
from state.work import Content

_PIECE = 4 << 20
"""Bytes of a file that are held at once."""


def pieces(content: Content) -> Iterator[bytes]:
    """All of it. Raises StartFailed where the file cannot be read."""
    if isinstance(content, bytes):
        yield content
        return
    try:
        file = content.open("rb")
    except OSError as error:
        raise _unreadable(content, error) from error
    with file:
        while piece := _read(content, file):
            yield piece


def size_of(content: Content) -> int:
    """In bytes. Raises StartFailed."""
    if isinstance(content, bytes):
        return len(content)
    try:
        return content.stat().st_size
    except OSError as error:
        raise _unreadable(content, error) from error


def _read(content: Path, file: BinaryIO) -> bytes:
    try:
        return file.read(_PIECE)
    except OSError as error:
        raise _unreadable(content, error) from error


def _unreadable(content: Path, error: OSError) -> StartFailed:
    return StartFailed(
        f"reading {content} for a guest: {error.strerror}", hint="see to the disk of this host"
    )
