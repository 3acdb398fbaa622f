"""Whether a commit is followed: it comes after the last good one, and all that came with it is of those who may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.source.git.command import Git, GitFailed


class Trust(Protocol):
    """Whose commits are followed."""

    def objection(self, git: Git, commits: list[str]) -> tuple[str, str] | None:
        """A commit that is not to be followed, and why; None where all of them are."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A commit that the branch names and that is not followed. `reason` is a sentence; `approvable`: whether a person
    can have it followed all the same."""

    commit: str
    reason: str
    approvable: bool


def judged(git: Git, tip: str, good: str | None, trust: Trust | None) -> Refusal | None:
    """Why the commit `tip` is not followed after `good`; None where it is. Raises GitFailed."""
    known = good is not None and _has(git, good)
    follows = good is None or (known and _is_ancestor(git, good, tip))
    commits = [tip]  # alone, where it follows nothing: whoever approves it means what it holds
    related = good is not None and known and _are_related(git, good, tip)
    if related:
        words = ["rev-list", "--reverse", "--topo-order", tip, f"^{good}"]
        # Of a branch that was set back there is nothing new; what it names is looked at all the same.
        commits = git.local(*words).decode().split() or [tip]
    if trust is not None:
        found = trust.objection(git, commits)
        if found is not None:
            commit, why = found
            return Refusal(tip, f"commit {commit[:12]} {why}", approvable=False)
    if follows:
        return None
    why = "the branch was set back, or its history was rewritten"
    if not related:
        why = "they have no commit in common"
        why += ", and of those before it no signature was looked at" if trust is not None else ""
    reason = f"commit {tip[:12]} does not follow {(good or '')[:12]}: {why}"
    return Refusal(tip, reason, approvable=True)


def doubt(git: Git, commit: str, trust: Trust | None) -> Refusal | None:
    """What is to be said of the commit that is followed: it may be from before signatures were asked for."""
    found = trust.objection(git, [commit]) if trust is not None else None
    if found is None:
        return None
    reason = f"commit {commit[:12]} {found[1]}; it is followed since before that was asked for"
    return Refusal(commit, reason, approvable=False)


def _is_ancestor(git: Git, old: str, new: str) -> bool:
    return _says(git, "merge-base", "--is-ancestor", old, new)


def _are_related(git: Git, one: str, other: str) -> bool:
    """Whether they have a commit in common."""
    return _says(git, "merge-base", one, other)


def _has(git: Git, commit: str) -> bool:
    return _says(git, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")


def _says(git: Git, *words: str) -> bool:
    """Whether git says yes, which has an exit status for no."""
    try:
        git.local(*words)
    except GitFailed as error:
        if error.status != 1:
            raise
        return False
    return True
