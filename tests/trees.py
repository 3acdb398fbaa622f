"""Directories of documents on a real file system, for tests of sources."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent.errors import BadInput
from agent.source.directory import DirectorySource
from state.desired import Desired
from state.spec.resolved_job import Attachment

HOST = "here"
LONG_AGO = 1_000_000_000.0
"""When the files of a tree were last changed, unless a test changes them: a stamp from then proves something."""
NOW = 2_000_000_000.0
"""A moment for `load` that lies after whatever a test writes."""

MAP = """\
api: holdfast/v1
kind: images
name: default
default_label: debian-12
aliases: {debian: debian-12}
sizes: {small: {cpus: 2, memory: 1GiB}}
images:
  debian-12:
    source: https://images.example/debian-12.qcow2
    sha256: "%s"
    defaults: {memory: 768MiB, disk: 4GiB}
""" % ("1" * 64)


def vm(name: str = "web", *more: str) -> str:
    """A vm document, with further lines."""
    return "\n".join(["api: holdfast/v1", "kind: vm", f"name: {name}", *more, ""])


def job(name: str = "tests", *more: str, script: str = "script: make test") -> str:
    """A job document, with further lines."""
    return "\n".join(["api: holdfast/v1", "kind: job", f"name: {name}", script, *more, ""])


@contextmanager
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


class NoFiles:
    """Nothing lies beside a document."""

    def user_data(self, relative: str) -> str:
        raise BadInput("there is no such file")

    def attachment(self, relative: str) -> Attachment:
        raise BadInput("there is no such file")


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below `root`, as if long ago."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(target, (LONG_AGO, LONG_AGO))
    return root


def tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """A tree with an image map and these files."""
    return write(root, {"images.yaml": MAP, **files})


def load(root: Path, **options: object) -> Desired:
    """One look at a tree by an agent that was just started."""
    return DirectorySource(root, host=HOST, **options).load(NOW)  # type: ignore[arg-type]


def messages(desired: Desired) -> list[str]:
    """Every problem, as a person reads it."""
    return [str(problem) for problem in desired.problems]
