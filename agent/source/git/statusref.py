"""Puts what became of the documents back into their repository, as commits on a ref of its own that no branch knows of.

STATE/git/status.git   what was pushed, bare
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress

from agent.errors import BadUsage, HoldfastError
from agent.paths import StatePaths
from agent.source.git.command import Git, GitFailed
from agent.source.git.origin import Origin, is_ref
from agent.source.git.own import alone, at_work
from agent.source.tree import shown

_LAST = "refs/holdfast/last"
_PEOPLES = (
    "heads", "tags", "remotes", "notes", "replace", "stash", "original", "bisect", "worktree",
    # What Gerrit, GitHub and GitLab take for reviews, and for their own configuration.
    "for", "drafts", "changes", "meta", "pull", "pulls", "merge-requests",
)  # fmt: skip
_OWN = re.compile(rf"refs/(?!(?:{'|'.join(_PEOPLES)})(?:/|$)).+/.+", re.IGNORECASE)


def checked_ref(ref: str) -> str:
    """A ref that nobody works on. Raises BadUsage."""
    if not (_OWN.fullmatch(ref) and is_ref(ref)):
        raise BadUsage(
            f"{shown(ref)!r} is no ref for a status: people use it, or git would not take it",
            hint="say one like refs/holdfast/status/HOST",
        )
    return ref


class StatusRef:
    """The ref `ref` of a repository, for one host. One thread works with it at a time."""

    def __init__(self, paths: StatePaths, origin: Origin, ref: str, host: str) -> None:
        self.ref = checked_ref(ref)
        self._url = origin.url
        self._git = Git(paths.git / "status.git")
        self._who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "holdfast"), ("EMAIL", f"holdfast@{host}"))
        }
        self._host = host

    def publish(self, files: dict[str, bytes], at: float) -> str:
        """Have a commit there that holds these files and nothing else; its id. What is there already is not pushed
        again. `at` is Unix time. Raises HoldfastError, and OSError where the disk fails."""
        directory = self._git.directory
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        with (
            alone(directory.with_name("status.lock")) as busy,
            at_work(directory, busy) as self._git,
        ):
            try:
                tree = self._tree(files)
                commit = self._there(tree) or self._pushed(tree, at)
                self._git.local("update-ref", _LAST, commit)
            except GitFailed as error:
                if error.is_of_the_repository:
                    shutil.rmtree(directory, ignore_errors=True)  # what the server has is followed
                raise
            with suppress(GitFailed):
                self._git.local("gc", "--auto", "--quiet")
        return commit

    def _there(self, tree: str) -> str | None:
        """The last commit, where it holds that, and the ref still names it."""
        last = self._known(_LAST)
        if last is None or self._known(f"{_LAST}^{{tree}}") != tree:
            return None
        named = self._git.remote("ls-remote", "--", self._url, self.ref).split()
        return last if named[:1] == [last.encode()] else None

    def _pushed(self, tree: str, at: float) -> str:
        commit = self._commit(tree, self._known(_LAST), at)
        try:
            self._push(commit)
        except HoldfastError:
            # Somebody else has pushed there, such as this host with another state: it is followed, not overwritten.
            other = self._fetched()
            if other is None:
                raise
            commit = self._commit(tree, other, at)
            self._push(commit)
        return commit

    def _tree(self, files: dict[str, bytes]) -> str:
        lines = []
        for name, content in sorted(files.items()):
            blob = self._git.local("hash-object", "-w", "--stdin", stdin=content).decode().strip()
            lines.append(f"100644 blob {blob}\t{name}\n")
        return self._git.local("mktree", stdin="".join(lines).encode()).decode().strip()

    def _commit(self, tree: str, parent: str | None, at: float) -> str:
        dates = {f"GIT_{role}_DATE": f"@{int(at)} +0000" for role in ("AUTHOR", "COMMITTER")}
        after = ["-p", parent] if parent else []
        told = self._git.local(
            "commit-tree",
            tree,
            *after,
            "-m",
            f"Status of {self._host}",
            variables={**self._who, **dates},
        )
        return told.decode().strip()

    def _push(self, commit: str) -> None:
        words = ("--quiet", "--no-signed")
        self._git.remote("push", *words, "--", self._url, f"{commit}:{self.ref}")

    def _fetched(self) -> str | None:
        """What the ref names at the server now; None where it is what was expected."""
        before = self._known(_LAST)
        words = ("--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1")
        try:
            self._git.remote("fetch", *words, "--", self._url, f"+{self.ref}:refs/holdfast/other")
        except GitFailed:
            return None
        other = self._known("refs/holdfast/other")
        return None if other == before else other

    def _known(self, ref: str) -> str | None:
        try:
            told = self._git.local("rev-parse", "--verify", "--quiet", ref)
        except GitFailed:
            return None
        return told.decode().strip()
