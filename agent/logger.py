"""The doorway to structlog, and the wall before rich: structlog imports that where it is installed, to draw tracebacks,
and takes ten times as long with it. Here tracebacks are plain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """As if it were not installed, for as long as the block lasts, unless it was imported before: None says so
    (https://docs.python.org/3/reference/import.html#the-module-cache)."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _absent("rich"):
    import structlog

__all__ = ["structlog"]
