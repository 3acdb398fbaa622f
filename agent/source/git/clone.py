"""The clone that an agent keeps of a repository: what it fetches is judged, and the last good commit is remembered.

    STATE/git/<key>/       one origin's, by its url and branch
      lock, lock.git       held by whoever works here, and by each git, so that no agent after it disturbs one
      record.json          the last good commit, what was refused, what a person has approved
      repo.git             bare; refs/holdfast/good and refs/holdfast/tip

The history since the first good commit is there, and more only where that does not tell enough. A clone that cannot be
read is made anew beside the old one, which is let go of only when the new one holds what it held, as far as its server
still has that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from agent import durable
from agent.errors import Blocked, HoldfastError
from agent.paths import StatePaths
from agent.source.git.command import Git, GitFailed
from agent.source.git.judge import Refusal, Trust, doubt, judged
from agent.source.git.origin import Origin
from agent.source.git.own import at_work, is_repository

_GOOD, _TIP = "refs/holdfast/good", "refs/holdfast/tip"
_QUIETLY = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with an origin. `commit`: the last good one, None where there never was one; `approved`: the one
    that a person wants to be followed wherever it comes from; `error`: why the server could not be asked last time;
    `asked`: whether it was asked at all since the agent began."""

    commit: str | None = None
    refused: Refusal | None = None
    approved: str | None = None
    error: str | None = None
    asked: bool = False


class Clone:
    """The clone of `origin` among those of a state directory. One thread works with it at a time; any may read
    `standing`."""

    def __init__(self, paths: StatePaths, origin: Origin, trust: Trust | None = None) -> None:
        self.origin = origin
        self.standing = Standing()
        self._fetched = paths.fetched
        self._directory = directory = paths.git / origin.key
        self._trust = trust
        self._suspect = False
        self._old = directory / f".old.git{durable.UNFINISHED}"
        self.git = Git(directory / "repo.git")

    def open(self) -> None:
        """Take up what an earlier agent has fetched. Nothing is fetched."""
        self._put_back()
        try:
            record = json.loads((self._directory / "record.json").read_bytes())
            refused = record["refused"]
            self.standing = Standing(
                commit=record["commit"],
                refused=Refusal(**refused) if refused else None,
                approved=record["approved"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            # The clone knows it, too: as if nothing had ever been followed, anything would be.
            self.standing = Standing(commit=self._good())

    def _good(self) -> str | None:
        """The last good commit as the clone has it."""
        if not is_repository(self.git.directory):
            return None
        try:
            told = self.git.local("rev-parse", "--verify", "--quiet", _GOOD)
        except GitFailed as error:
            if error.status != 1:
                raise
            return None
        return told.decode().strip()

    def _put_back(self) -> None:
        """Have the old clone again where an agent ended between letting go of it and having the new one."""
        if not is_repository(self.git.directory) and is_repository(self._old):
            with suppress(OSError):
                shutil.rmtree(self.git.directory, ignore_errors=True)
                self._old.rename(self.git.directory)

    def suspect(self) -> None:
        """What is here cannot be read: the next fetch makes it anew."""
        self._suspect = True

    def approve(self, commit: str) -> str:
        """Follow this commit wherever it comes from, once the branch names it; the whole of its id. Raises Blocked
        where it is not the one that was refused."""
        refused = self.standing.refused
        if refused is None or not refused.commit.startswith(commit):
            hint = f"what waits is {refused.commit[:12]}" if refused else "nothing waits for it"
            raise Blocked(f"approving commit {commit}: it was not refused", hint=hint)
        if not refused.approvable:
            raise Blocked(
                f"approving commit {commit}: {refused.reason}", hint="no approval makes up for that"
            )
        self._put(replace(self.standing, approved=refused.commit))
        return refused.commit

    def fetch(self) -> None:
        """Ask the server what the branch names now, and follow it if it is good; `standing` says what came of it. Does
        not raise for what a server, a repository or a disk does."""
        try:
            with self._locked() as git:
                self._look(git)
            self._put(replace(self.standing, error=None, asked=True))
            self._fetched.touch(0o600)
        except (HoldfastError, OSError) as error:
            # What fails here without speaking to anybody may be broken.
            self._suspect |= isinstance(error, GitFailed) and not error.remote
            why = str(error) if isinstance(error, HoldfastError) else f"{error.strerror or error}"
            said = f"fetching {self.origin}: {why}"
            self.standing = replace(self.standing, error=said, asked=True)

    def _look(self, git: Git) -> None:
        tip = self._asked(git)
        now = self.standing
        if self._suspect:
            self._make_anew(git)
            self._suspect = False
        if tip == now.commit:
            self._put(replace(now, refused=doubt(git, tip, self._trust), approved=None))
            return
        if now.refused is None or now.refused.commit != tip:
            self._bring(git, tip)
        # What was refused is judged again: those who may sign can have become others.
        refusal = self._objection(git, tip)
        if refusal is not None:
            approved = now.approved if now.approved == tip else None
            self._put(replace(now, refused=refusal, approved=approved))
            return
        git.local("update-ref", _GOOD, tip)
        self._put(replace(now, commit=tip, refused=None, approved=None))
        with suppress(GitFailed):
            git.local("gc", "--auto", "--quiet", config=_FEW_PACKS)

    def _asked(self, git: Git) -> str:
        """The commit that the branch names at the server. Raises GitFailed."""
        told = git.remote("ls-remote", "--", self.origin.url, self.origin.ref)
        for line in told.decode(errors="replace").splitlines():
            commit, _, ref = line.partition("\t")
            if ref == self.origin.ref:
                return commit
        branch = f"no branch {self.origin.branch}" if self.origin.branch else "no commit"
        raise GitFailed(f"there is {branch} in it", status=0, remote=True)

    def _bring(self, git: Git, tip: str) -> None:
        """Have the commit here, and all that came since the last good one."""
        try:
            self._fetch(git, since=self.standing.commit)
            git.local("rev-parse", "--verify", "--quiet", f"{tip}^{{tree}}")
        except GitFailed as error:
            # The server has just answered, so it may be what lies here.
            if error.status is None or not is_repository(self.git.directory):
                raise
            self._make_anew(git)

    def _fetch(self, git: Git, since: str | None) -> None:
        depth = ["--depth=1"] if since is None else []
        refspec = f"+{self.origin.ref}:{_TIP}"
        git.remote("fetch", *_QUIETLY, *depth, "--", self.origin.url, refspec)

    def _make_anew(self, git: Git) -> None:
        """A new clone in place of this one, with the last good commit in it. Raises GitFailed, and leaves all as it
        was then."""
        beside = self._directory / f".repo.git{durable.UNFINISHED}"
        shutil.rmtree(beside, ignore_errors=True)
        fresh = Git(beside, busy=git.busy)
        try:
            fresh.initialise()
            good = self.standing.commit
            if good is not None and not self._had(fresh, good):
                good = None
            self._fetch(fresh, since=good)
            fresh.local("rev-list", "--quiet", "--objects", "--all")
            shutil.rmtree(self._old, ignore_errors=True)
            with suppress(FileNotFoundError):
                self.git.directory.rename(self._old)
            beside.rename(self.git.directory)
            durable.sync_directory(self._directory)
            shutil.rmtree(self._old, ignore_errors=True)
        finally:
            self._put_back()
            shutil.rmtree(beside, ignore_errors=True)

    def _had(self, fresh: Git, commit: str) -> bool:
        """Whether the server gave that commit to a new clone: one that was rewritten it may have forgotten."""
        try:
            refspec = f"+{commit}:{_GOOD}"
            fresh.remote("fetch", *_QUIETLY, "--depth=1", "--", self.origin.url, refspec)
        except GitFailed as error:
            # Anything else may be the network, which is no reason to let go of a commit.
            if not any(words in str(error) for words in _FORGOTTEN):
                raise
            return False
        return True

    def _objection(self, git: Git, tip: str) -> Refusal | None:
        refusal = self._judged(git, tip)
        if refusal is not None and (git.directory / "shallow").exists():
            # Behind the border of what is here, the branch may follow all the same.
            words = ("--unshallow", "--", self.origin.url, f"+{self.origin.ref}:{_TIP}")
            git.remote("fetch", *_QUIETLY, *words)
            refusal = self._judged(git, tip)
        return refusal

    def _judged(self, git: Git, tip: str) -> Refusal | None:
        """What stands against the commit, as far as no person has approved it."""
        refusal = judged(git, tip, self.standing.commit, self._trust)
        approved = refusal is not None and refusal.approvable and self.standing.approved == tip
        return None if approved else refusal

    @contextmanager
    def _locked(self) -> Iterator[Git]:
        """git on this clone, alone. Raises RetryLater where one of an agent before is at work."""
        durable.directory(self._directory.parent)
        durable.directory(self._directory)
        self._put_back()
        lost = not is_repository(self.git.directory)
        with at_work(self.git.directory, self._directory / "lock") as git:
            durable.clear_up(self._directory)
            self._suspect |= lost and self.standing.commit is not None
            if not (self._directory / "record.json").exists():
                self._fetched.unlink(missing_ok=True)  # it is of another origin
            yield git

    def _put(self, standing: Standing) -> None:
        """Be it, and remember of it what another agent must know."""
        refused = asdict(standing.refused) if standing.refused else None
        kept = {"commit": standing.commit, "refused": refused, "approved": standing.approved}
        path = self._directory / "record.json"
        content = json.dumps({"origin": str(self.origin), **kept}, indent=1).encode()
        if not path.exists() or path.read_bytes() != content:
            durable.write(path, content, replace=True)
        self.standing = standing


_FORGOTTEN = ("not our ref", "request for unadvertised object")
"""What git-upload-pack(1) says of a commit that it does not have, or that no ref leads to any more."""
_FEW_PACKS = {"gc.auto": "1000", "gc.autoPackLimit": "30", "gc.pruneExpire": "1.hour.ago"}
