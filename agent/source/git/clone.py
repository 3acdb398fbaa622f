"""The clone that an agent keeps of a repository: what it fetches is judged, and the last good commit is remembered.

    STATE/git/<key>/       one origin's, by its url and branch
      lock, lock.git       held by whoever works here, and by each git, so that no agent after it disturbs one
      record.json          how it stands: see agent/source/git/standing.py
      repo.git             bare; refs/holdfast/good and refs/holdfast/tip

The history since the first good commit is there, and more only where that does not tell enough. A clone that cannot be
read is made anew beside the old one, which is let go of only when the new one holds what it held, as far as its server
still has that, or it can be read for that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from agent import durable
from agent.errors import HoldfastError
from agent.paths import StatePaths
from agent.source.git.command import Git, GitFailed, NoRoom
from agent.source.git.judge import Refusal, Trust, doubt, judged
from agent.source.git.origin import Origin
from agent.source.git.own import alone, at_work, is_repository
from agent.source.git.room import Room
from agent.source.git.standing import Record, Standing

_GOOD, _TIP = "refs/holdfast/good", "refs/holdfast/tip"
_QUIETLY = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")


class Clone:
    """The clone of `origin` among those of a state directory. One thread fetches at a time; any may read `standing` and
    approve meanwhile."""

    def __init__(self, paths: StatePaths, origin: Origin, trust: Trust | None = None) -> None:
        self.origin = origin
        self._fetched = paths.fetched
        self._directory = directory = paths.git / origin.key
        self._record = Record(directory, origin)
        self._trust = trust
        self._suspect = False
        self._unroomy: tuple[str, Room] | None = None
        self._place = directory / "repo.git"
        self._old = directory / f".old.git{durable.UNFINISHED}"
        self.git = Git(self._place)

    def open(self) -> None:
        """Take up what an agent has fetched. Nothing is fetched, and nothing changed here: one may be at work."""
        self.locate()
        try:
            self._record.recall()
        except (OSError, ValueError, KeyError, TypeError):
            self._record.standing = self._as_the_clone_tells()

    def locate(self) -> None:
        """Have `git` read where the repository lies just now: between two renames, that is where the old one does."""
        renaming = not is_repository(self._place) and is_repository(self._old)
        self.git.directory = self._old if renaming else self._place

    @property
    def standing(self) -> Standing:
        return self._record.standing

    def _as_the_clone_tells(self) -> Standing:
        """What was followed, without the record: as if nothing had ever been, anything would be followed."""
        try:
            good = self._good()
        except (HoldfastError, OSError) as error:
            return Standing(lost=f"its record and its clone cannot be read: {error}")
        if good is None and self._record.exists():
            return Standing(lost="its record cannot be read")
        return Standing(commit=good)

    def _good(self) -> str | None:
        """The last good commit as the clone has it. Raises GitFailed where that cannot be told."""
        if not is_repository(self.git.directory):
            return None
        try:
            told = self.git.local("rev-parse", "--verify", "--quiet", _GOOD)
        except GitFailed as error:
            if error.status != 1 or (self.git.directory / _GOOD).exists():
                raise
            return None
        return told.decode().strip()

    def _put_back(self) -> None:
        """Have the old clone again where an agent ended between letting go of it and having the new one. For whoever
        holds the lock."""
        if not is_repository(self._place) and is_repository(self._old):
            with suppress(OSError):
                shutil.rmtree(self._place, ignore_errors=True)
                self._old.rename(self._place)
        self.locate()

    def suspect(self) -> None:
        """What is here cannot be read: the next fetch makes it anew."""
        self._suspect = True

    def approve(self, commit: str) -> str:
        """Follow this commit wherever it comes from, once the branch names it; the whole of its id. Raises Blocked
        where it is not the one that was refused."""
        approved = self._record.change(lambda now: now.allowing(commit)).approved
        assert approved is not None  # noqa: S101 - for the type only
        return approved

    def fetch(self) -> None:
        """Ask the server what the branch names now, and follow it if it is good; `standing` says what came of it. Does
        not raise for what a server, a repository or a disk does."""
        try:
            with self._locked() as git:
                self._look(git)
            self._record.change(lambda now: replace(now, error=None, asked=True))
            self._fetched.touch(0o600)
        except (HoldfastError, OSError) as error:
            self._suspect |= isinstance(error, GitFailed) and error.is_of_the_repository
            why = str(error) if isinstance(error, HoldfastError) else f"{error.strerror or error}"
            said = f"fetching {self.origin}: {why}"
            self._record.note(error=said)

    def _look(self, git: Git) -> None:
        self._find_broken(git)
        tip = self._asked(git)
        now = self.standing
        if self._suspect:
            self._make_anew(git)
        if tip == now.commit:
            doubted = doubt(git, tip, self._trust)
            self._record.change(lambda now: now.but(doubted))
            return
        if now.refused is None or now.refused.commit != tip:
            self._bring(git, tip)
        # What was refused is judged again: those who may sign can have become others.
        refusal = self._objection(git, tip)
        if refusal is not None:
            self._record.change(lambda now: now.but(refusal))
            return
        git.local("update-ref", _GOOD, tip)
        self._record.change(lambda now: now.followed(tip))
        with suppress(GitFailed):
            git.local("gc", "--auto", "--quiet", config=_FEW_PACKS)

    def _asked(self, git: Git) -> str:
        """The commit that the branch names at the server. Raises GitFailed."""
        branch = self.origin.branch
        refs = [self.origin.ref, *([f"refs/tags/{branch}"] if branch else [])]
        told = git.remote("ls-remote", "--", self.origin.url, *refs).decode(errors="replace")
        named: dict[str, str] = {}
        for line in told.splitlines():
            commit, _, ref = line.partition("\t")
            named[ref] = commit
        if self.origin.ref in named:
            return named[self.origin.ref]
        lacks = f"no branch {branch} in it" if branch else "no commit in it"
        if refs[-1] in named:
            lacks += ", only a tag of that name, and a tag is not followed"
        raise GitFailed(f"there is {lacks}", status=0, remote=True)

    def _find_broken(self, git: Git) -> None:
        """Have a repository from which git works at all; in one that is broken it does not even speak to a server."""
        if self.standing.lost:
            told = self._as_the_clone_tells()
            found = told if told.lost is None else self.standing
            # Also what is lost is remembered: in a new clone it would look as if nothing had ever been.
            self._record.change(lambda now: replace(now, commit=found.commit, lost=found.lost))
        try:
            self._good()
        except GitFailed as error:
            if not error.is_of_the_repository:
                raise
            self._make_anew(git)

    def _bring(self, git: Git, tip: str) -> None:
        """Have the commit here, and all that came since the last good one."""
        if self._unroomy is not None and self._unroomy[0] == tip:
            room = Room.of(self._directory)
            if not room.is_more_than(self._unroomy[1]):
                raise NoRoom(room, remote=True)  # and bother nobody
        try:
            self._fetch(git, since=self.standing.commit)
            git.local("rev-parse", "--verify", "--quiet", f"{tip}^{{tree}}")
        except NoRoom as error:
            self._unroomy = (tip, error.room)
            raise
        except GitFailed as error:
            # The server has just answered, so it may be what lies here.
            if error.status is None or not is_repository(self._place):
                raise
            self._make_anew(git)
        if (kind := git.local("cat-file", "-t", tip).decode().strip()) != "commit":
            raise GitFailed(f"{self.origin.ref} names a {kind}, no commit", status=0, remote=True)

    def _fetch(self, git: Git, since: str | None) -> None:
        depth = ["--depth=1"] if since is None else []
        refspec = f"+{self.origin.ref}:{_TIP}"
        git.remote("fetch", *_QUIETLY, *depth, "--", self.origin.url, refspec)

    def _make_anew(self, git: Git) -> None:
        """A new clone in place of this one, with the last good commit in it. Raises GitFailed, and leaves all as it
        was then."""
        beside = self._directory / f".repo.git{durable.UNFINISHED}"
        fresh = Git(beside, busy=git.busy)
        try:
            fresh.initialise()
            good = self.standing.commit
            if good is not None and not self._had(fresh, good) and not self._handed_on(fresh, good):
                good = None
            self._fetch(fresh, since=good)
            with suppress(FileNotFoundError):
                self._place.rename(self._old)
            beside.rename(self._place)
            durable.sync_directory(self._directory)
            shutil.rmtree(self._old, ignore_errors=True)
            self._suspect = False
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

    def _handed_on(self, fresh: Git, commit: str) -> bool:
        """Whether the old clone gave that commit to the new one: often it was the way to the server that broke."""
        url = f"file://{self._place.resolve()}"
        try:
            fresh.remote("fetch", *_QUIETLY, "--depth=1", "--", url, f"+{_GOOD}:{_GOOD}")
            return fresh.local("rev-parse", _GOOD).decode().strip() == commit
        except GitFailed:
            return False

    def _objection(self, git: Git, tip: str) -> Refusal | None:
        refusal = self._judged(git, tip)
        followed = self.standing.commit is not None
        if refusal is not None and followed and (git.directory / "shallow").exists():
            # Behind the border of what is here, the branch may follow all the same.
            words = ("--unshallow", "--", self.origin.url, f"+{self.origin.ref}:{_TIP}")
            git.remote("fetch", *_QUIETLY, *words)
            refusal = self._judged(git, tip)
        return refusal

    def _judged(self, git: Git, tip: str) -> Refusal | None:
        """What stands against the commit, as far as no person has approved it."""
        refusal = judged(git, tip, self.standing.commit, self._trust)
        if refusal is None and self.standing.lost:
            refusal = Refusal(tip, f"commit {tip[:12]} {_UNTOLD}", approvable=True)
        approved = refusal is not None and refusal.approvable and self.standing.approved == tip
        return None if approved else refusal

    @contextmanager
    def _locked(self) -> Iterator[Git]:
        """git on this clone, alone. Raises RetryLater where one of an agent before is at work, and NoRoom."""
        durable.directory(self._directory.parent)
        durable.directory(self._directory)
        with alone(self._directory / "lock") as busy:
            self._put_back()
            self._record.clear_up()
            self._suspect |= not is_repository(self._place) and self.standing.commit is not None
            if not self._record.exists():
                self._fetched.unlink(missing_ok=True)  # it is of another origin
            with at_work(self._place, busy) as git:
                yield git


_UNTOLD = "may not follow what was followed before, which nobody can tell any more"
_FORGOTTEN = ("not our ref", "request for unadvertised object")
"""What git-upload-pack(1) says of a commit that it does not have, or that no ref leads to any more."""
_FEW_PACKS = {
    "gc.auto": "1000",
    "gc.autoPackLimit": "30",
    "gc.pruneExpire": "1.hour.ago",
    "gc.cruftPacks": "true",  # what a branch no longer names stays packed: a file for each would fill the disk
}
