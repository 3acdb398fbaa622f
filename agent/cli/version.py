"""Which version of holdfast this is, and of which commit, where it was built from a checkout."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

BUILD = "build.txt"
"""Beside the package `agent`, as `tools/build_hook.py` writes it."""


def told() -> str:
    """`0.1.0`, or `0.1.0 (built from 1a2b3c4d5e6f)`."""
    number = version("holdfast")
    try:
        commit = files("agent").joinpath(BUILD).read_text().strip()
    except FileNotFoundError:
        return number
    return f"{number} (built from {commit})"
