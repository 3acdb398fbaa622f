"""Secrets of this host that jobs may have: which there are, whose they are, and their values when a run needs them.

The operator lists them in a file outside every tree. Whoever writes documents chooses which to ask for, by name; the
list says to which jobs each is given. It is read anew for every run, so that a secret can be changed while an agent
runs; it keeps no value.

    DEPLOY_TOKEN: {file: /etc/holdfast/deploy-token, jobs: ["deploy-*"]}
    NPM_TOKEN: {environment: NPM_TOKEN, jobs: [release]}
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from agent.errors import BadInput
from agent.source.text import MOST_BYTES
from agent.source.yaml import Value, load_mapping
from state.ids import Name
from state.spec.job import VARIABLE_LIMIT
from state.spec.words import quoted

_KEYS = {"file", "environment", "jobs"}


class HostSecrets:
    """The secrets that one file lists."""

    def __init__(self, listed: Path, environment: Mapping[str, str]) -> None:
        """`environment`: the agent's own."""
        self._listed = listed
        self._environment = environment

    def __call__(self, job: Name, names: Sequence[str]) -> Mapping[str, str]:
        """The values of these secrets for a job, by name. Raises BadInput where one is not to be had."""
        listed = load_mapping(_private(self._listed), str(self._listed))
        return {name: self._value(job, name, listed.get(name)) for name in names}

    def _value(self, job: Name, name: str, entry: Value) -> str:
        try:
            return self._checked(job, name, entry)
        except OSError as error:
            raise _refused(name, job, f"{error.filename}: {error.strerror}") from error

    def _checked(self, job: Name, name: str, entry: Value) -> str:
        if entry is None:
            raise _refused(name, job, f"{self._listed} does not list it")
        file, variable, patterns = self._entry(name, entry)
        if not any(fnmatchcase(job, pattern) for pattern in patterns):
            raise _refused(name, job, f"{self._listed} does not allow it to this job")
        if file is not None:
            value = os.fsdecode(_content(Path(file))).removesuffix("\n")
        elif (found := self._environment.get(variable)) is not None:
            value = found
        else:
            raise _refused(name, job, f"the agent's environment has no {quoted(variable)}")
        if not value or "\0" in value or len(os.fsencode(value)) + len(name) >= VARIABLE_LIMIT:
            raise _refused(name, job, "its value is empty, has a NUL in it, or is over 128KiB")
        return value

    def _entry(self, name: str, entry: Value) -> tuple[str | None, str, list[str]]:
        where = f"{self._listed}: {quoted(name)}"
        if not isinstance(entry, dict) or entry.keys() - _KEYS or len(entry) != 2:
            raise BadInput(
                f"{where} is no secret", hint="write {file: PATH, jobs: [PATTERN]} or {environment: NAME, jobs: …}"
            )  # fmt: skip
        file, variable, jobs = (entry.get(key) for key in ("file", "environment", "jobs"))
        patterns = [one for one in jobs if isinstance(one, str)] if isinstance(jobs, list) else []
        if not patterns or len(patterns) != len(jobs if isinstance(jobs, list) else []):
            raise BadInput(f"{where} is for no job", hint='write its jobs, like ["deploy-*"]')
        if isinstance(file, str) and os.path.isabs(file):
            return file, "", patterns
        if isinstance(variable, str):
            return None, variable, patterns
        raise BadInput(f"{where} has no value", hint="`file` takes an absolute path")


def files(listed: Path) -> list[Path]:
    """The files that a list of secrets names; none where it cannot be read yet."""
    try:
        entries = load_mapping(_private(listed), str(listed)).values()
    except BadInput:
        return []
    said = [entry.get("file") for entry in entries if isinstance(entry, dict)]
    return [Path(file) for file in said if isinstance(file, str) and os.path.isabs(file)]


def _refused(name: str, job: Name, why: str) -> BadInput:
    return BadInput(
        f"giving the secret {quoted(name)} to {job}: {why}", hint="see to it, then rerun the job"
    )


def _private(path: Path) -> bytes:
    """What the operator wrote: who could change it could have any file of the host given to a guest."""
    try:
        data = _content(path, private=True)
    except OSError as error:
        raise BadInput(f"reading the list of secrets {path}: {error.strerror}") from error
    return data


def _content(path: Path, *, private: bool = False) -> bytes:
    """A regular file, as far as it can matter; another, such as a pipe, is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BadInput(f"reading {path}: it is no regular file")
        if private and (found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid())):
            raise BadInput(
                f"reading the list of secrets {path}: others may write to it",
                hint=f"chown it to the agent's user, and chmod go-w {path}",
            )
        return file.read(MOST_BYTES + 1)
