"""A job as it is wanted, whole: every default applied, its label resolved to an image, its files read.

This is what a run is made of and what the ledger keeps of it. Of files it holds the digests: who queues a run asks the
source for the bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from state.fields import canonical
from state.ids import Digest, Name
from state.spec.resolved import ImageSpec


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of the source: its path below the tree's root, the `sha256:` of its bytes, and their number."""

    path: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that goes into the guest, to the absolute path `path`; `mode` is its permission bits."""

    path: str
    content: Attachment
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Retries:
    """Further attempts of a run, by what ended the last: something before the script began, something that cut it off,
    or its own failure."""

    infrastructure: int = 2
    interrupted: int = 0
    script: int = 0


@dataclass(frozen=True)
class JobSpec:
    """A job as it is wanted. `memory` and `disk` are bytes (`disk` None: the image's size); `boot`, `silence`, `total`
    and `keep_on_failure` seconds. `runs_on` is the label that led to the image; `secrets` are names of
    variables that no log shows; those that are not in `env` have their values from the host."""

    name: Name
    runs_on: str
    image: ImageSpec
    cpus: int
    memory: int
    disk: int | None
    script: str | Attachment
    labels: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    files: tuple[JobFile, ...] = ()
    artifacts: tuple[str, ...] = ()
    boot: float = 300.0
    silence: float = 600.0
    total: float = 3600.0
    retries: Retries = Retries()
    keep_on_failure: float = 0.0
    priority: int = 0

    @property
    def secrets_of_the_host(self) -> tuple[str, ...]:
        """Names of secrets whose values no document holds."""
        own = {name for name, _ in self.env}
        return tuple(name for name in self.secrets if name not in own)

    def canonical(self) -> str:
        """Equal specs, and only they, have equal texts."""
        return canonical(self)

    @cached_property
    def digest(self) -> Digest:
        """`sha256:` of the canonical form without the ways that lead to content: the same bytes at another path of the
        tree, and the same image by another label or source or within other bounds, are no other job."""
        content = replace(
            self,
            runs_on="",
            image=replace(
                self.image,
                label="",
                source=self.image.source if self.image.digest is None else "",
            ),
            script=self.script if isinstance(self.script, str) else replace(self.script, path=""),
            files=tuple(replace(one, content=replace(one.content, path="")) for one in self.files),
        )
        fields = json.loads(content.canonical())
        del fields["image"]["max_size"]
        return Digest("sha256:" + hashlib.sha256(canonical(fields).encode()).hexdigest())

    @classmethod
    def from_canonical(cls, text: str) -> JobSpec:
        """The spec whose `canonical()` is `text`. Raises ValueError or TypeError for a text that this version did not
        write."""
        fields: dict[str, Any] = json.loads(text)
        fields["image"] = ImageSpec(**fields["image"])
        if not isinstance(fields["script"], str):
            fields["script"] = Attachment(**fields["script"])
        for pairs in ("labels", "env"):
            fields[pairs] = tuple((key, value) for key, value in fields[pairs])
        fields["secrets"] = tuple(fields["secrets"])
        fields["files"] = tuple(
            JobFile(one["path"], Attachment(**one["content"]), one["mode"])
            for one in fields["files"]
        )
        fields["artifacts"] = tuple(fields["artifacts"])
        fields["retries"] = Retries(**fields["retries"])
        return cls(**fields)
