"""The documents of one revision of a repository on this host, for comparing it with another: nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.errors import BadUsage
from agent.source.contents import Contents
from agent.source.git.command import Git, GitFailed
from agent.source.git.commit import CommitTree
from agent.source.git.objects import Objects
from agent.source.git.worktree import git_directory
from agent.source.tree import shown
from state.desired import Desired, SourceInfo


class Revisions:
    """The revisions of the repository at `path`: its own directory, or any of a work tree."""

    def __init__(self, path: Path, below: str) -> None:
        found = git_directory(path)
        if found is None:
            raise BadUsage(
                f"{shown(str(path))} lies in no git repository",
                hint="--from and --to compare revisions of one on this host",
            )
        self._path = path
        self._git = Git(found)
        self._below = below

    def wanted(
        self, revision: str, *, host: str, images_file: Path | None, image_roots: Sequence[Path]
    ) -> Desired:
        """What its documents say. Raises BadUsage where there is no such revision."""
        commit = self._commit(revision)
        objects = Objects(self._git)
        try:
            tree = CommitTree(objects, self._below)
            tree.at(objects.root(commit))
            contents = Contents(tree, images_file=images_file, image_roots=image_roots)
            contents.at(commit)
            source = SourceInfo("git", shown(f"{self._path}@{revision}"), commit=commit)
            return contents.desired(contents.assembler(host), source, 0.0)
        finally:
            objects.rest()

    def _commit(self, revision: str) -> str:
        try:
            words = ("rev-parse", "--verify", "--quiet", "--end-of-options")
            return self._git.local(*words, f"{revision}^{{commit}}").decode().split()[-1]
        except GitFailed as error:
            raise BadUsage(
                f"{shown(revision)!r} is no revision of the repository {shown(str(self._path))}",
                hint="a shallow clone has but few: fetch what is compared with",
            ) from error
