"""A git repository as a source: what the last good commit of a branch says is wanted on a host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agent.errors import HoldfastError
from agent.source.beside import read_attachment
from agent.source.contents import Contents
from agent.source.git.clone import Clone
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects, Unsound
from agent.source.git.standing import Standing
from agent.source.tree import Moved
from state.desired import Desired, SourceInfo
from state.ids import Digest

_TRIES = 3


class GitSource:
    """What a branch says. `load` and `attachment` never speak to a server; `fetch` does, from a thread of its own, and
    what it brought is seen by the next `load`."""

    def __init__(
        self,
        clone: Clone,
        *,
        host: str,
        images_file: Path | None = None,
        image_roots: Sequence[Path] = (),
    ) -> None:
        self._clone = clone
        self._objects = Objects(clone.git)
        self._tree = CommitTree(self._objects, clone.origin.below)
        self._contents = Contents(self._tree, images_file=images_file, image_roots=image_roots)
        self._assembler = self._contents.assembler(host)
        self._commit: str | None = None
        self._last: Desired | None = None
        clone.open()

    def fetch(self) -> bool:
        """Ask the server once; whether anything is said differently since."""
        before = self._clone.standing
        self._clone.fetch()
        return self._clone.standing != before

    @property
    def refused(self) -> str | None:
        """Why the commit that the branch names is not followed, and what can be done."""
        return self._info(self._clone.standing).refused

    @property
    def approvable(self) -> str | None:
        """The commit that is not followed until a person approves it."""
        refused = self._clone.standing.refused
        return refused.commit if refused is not None and refused.approvable else None

    def approve(self, commit: str) -> str:
        """Follow a commit that was refused; its whole id. Raises Blocked. May be called while `fetch` runs."""
        return self._clone.approve(commit)

    def load(self, now: float) -> Desired:
        """What is wanted now. `now` is Unix time. Raises nothing for what a repository holds or lacks."""
        standing = self._clone.standing
        source = self._info(standing)
        if standing.commit is None:
            why = f"no commit of {self._clone.origin} was fetched yet"
            if standing.lost:
                why = f"which commit of {self._clone.origin} was followed is lost: {standing.lost}"
            return Desired(source, unproven=why)
        try:
            desired = self._read(standing.commit, source, now)
        except (HoldfastError, OSError, Moved) as error:
            if isinstance(error, Unsound):
                self._clone.suspect()
            return self._unreadable(source, standing.commit, str(error))
        broken = [problem for problem in desired.problems if problem.file == "."]
        if broken:
            rest = tuple(problem for problem in desired.problems if problem not in broken)
            source = replace(source, error=source.error or broken[0].message)
            desired = replace(desired, source=source, problems=rest)
        self._last = desired
        return desired

    def attachment(self, path: str, digest: Digest) -> bytes:
        """The file that a job's spec names as an attachment. May be called from any thread, also while `load` runs.
        Raises SourceChanged where it is no longer what it was when the spec was read."""
        return read_attachment(self._tree, path, digest)

    def _read(self, commit: str, source: SourceInfo, now: float) -> Desired:
        """What its documents say. Raises Unsound where the last try does, too: at the others, another clone may have
        been taking the place of this one."""
        for _ in range(_TRIES - 1):
            with suppress(Unsound):
                return self._once(commit, source, now)
        return self._once(commit, source, now)

    def _once(self, commit: str, source: SourceInfo, now: float) -> Desired:
        self._clone.locate()
        known, self._commit = self._commit, None
        try:
            if commit != known:
                self._tree.at(self._objects.root(commit))
                self._contents.at(commit)
            desired = self._contents.desired(self._assembler, source, now)
        finally:
            self._objects.rest()
        self._commit = commit
        return desired

    def _info(self, standing: Standing) -> SourceInfo:
        refused = standing.refused
        said = None
        if refused is not None:
            said = refused.reason
            if refused.approvable:
                said += f" (`holdfast approve {refused.commit[:12]}` lets it pass)"
        return SourceInfo(
            "git",
            str(self._clone.origin),
            commit=standing.commit,
            error=standing.error,
            refused=said,
            pending=not standing.asked,
        )

    def _unreadable(self, source: SourceInfo, commit: str, why: str) -> Desired:
        """What was wanted before: what cannot be read proves nothing."""
        source = replace(source, error=f"reading commit {commit[:12]}: {why}")
        if self._last is None:
            return Desired(source, unproven=f"commit {commit[:12]} cannot be read")
        return replace(self._last, source=source)
