"""Lists the files of a directory that may hold documents, in one pass of scandir and lstat, and opens none of them.

Dotfiles, editor backups (which do not end in `.yaml`) and what `.holdfastignore` names are passed over in silence; what
could hold documents but cannot be listed is a problem; what is no regular file gets a word of advice.
"""

from __future__ import annotations

import os
import stat

from agent.errors import BadInput
from agent.source.files import Directory, is_fresh, stamp_of
from agent.source.ignore import Rules, Verdicts, compile_rules
from agent.source.text import Unreadable
from agent.source.tree import IGNORE_FILE, SUFFIXES, Entry, Look, shown
from state.desired import Advice, Problem, SourceRef


class Walk:
    """One look at a directory tree. `before` is what the last look found: entries that are the same stay the same
    objects, since ten thousand new ones a look would keep the garbage collector busy."""

    def __init__(self, directory: Directory, verdicts: Verdicts, before: Look, now: float) -> None:
        self._before = {entry.path: entry for entry in before.entries}
        self._directory = directory
        self._verdicts = verdicts
        self._now = now
        self._entries: list[Entry] = []
        self._problems: list[Problem] = []
        self._advice: list[Advice] = []
        self._links: list[tuple[str, Rules | None]] = []
        self._walked: set[str] = set()
        self._taken: set[str] = set()
        verdicts.begin()

    def look(self) -> Look:
        """Everything below the directory."""
        self._descend("", self._directory.real, None)
        while self._links:
            links, self._links = sorted(self._links, key=lambda link: link[0]), []
            for path, rules in links:
                self._follow(path, rules)
        self._entries.sort(key=lambda entry: entry.path)
        return Look(tuple(self._entries), tuple(self._problems), tuple(self._advice))

    def _problem(self, path: str, message: str, line: int = 0, column: int = 0) -> None:
        self._problems.append(Problem(shown(path), line, column, message))

    def _descend(self, top: str, real: str, rules: Rules | None) -> None:
        """Walk the directory whose files are to be known as `top` + name; `top` is empty or ends in `/`."""
        waiting = [(top, real, rules)]
        while waiting:
            prefix, real, rules = waiting.pop()
            if real in self._walked:
                continue
            self._walked.add(real)
            try:
                with os.scandir(real) as listing:
                    found = list(listing)
            except OSError as error:
                self._problem(prefix or ".", f"the directory cannot be read: {error.strerror}")
                continue
            try:
                rules = self._rules(prefix, found, rules)
            except (BadInput, OSError) as error:
                place = (error.line, error.column) if isinstance(error, Unreadable) else (0, 0)
                why = error.strerror if isinstance(error, OSError) else str(error)
                self._problem(
                    prefix + IGNORE_FILE, f"the ignore file cannot be used: {why}", *place
                )
                continue
            for entry in found:
                try:
                    if self._is_directory(prefix, entry, rules):
                        waiting.append((f"{prefix}{entry.name}/", entry.path, rules))
                except OSError as error:
                    why = f"the file cannot be looked at: {error.strerror}"
                    self._problem(prefix + entry.name, why)

    def _is_directory(self, prefix: str, entry: os.DirEntry[str], rules: Rules | None) -> bool:
        """Whether to descend; what is no directory is dealt with here."""
        name = entry.name
        if name[0] == ".":
            return False
        path = prefix + name
        if entry.is_dir(follow_symlinks=False):
            return rules is None or not self._verdicts.ignores(rules, path + "/")
        if entry.is_symlink():
            if rules is None or not self._verdicts.ignores(rules, path):
                self._links.append((path, rules))
        elif name.endswith(SUFFIXES) and not (rules and self._verdicts.ignores(rules, path)):
            self._add(path, entry.path, entry.stat(follow_symlinks=False))
        return False

    def _add(self, path: str, real: str, status: os.stat_result) -> None:
        if real in self._taken:
            return
        self._taken.add(real)
        if stat.S_ISREG(status.st_mode):
            stamp = stamp_of(status)
            entry = Entry(path, stamp, is_fresh(stamp, self._now))
            before = self._before.get(path)
            self._entries.append(before if before == entry else entry)
        else:
            where = SourceRef(shown(path), 0)
            self._advice.append(Advice(where, "is no regular file and was not opened"))

    def _follow(self, path: str, rules: Rules | None) -> None:
        """A link is only another name: what it leads to counts where it lies, or here if it lies where no walk goes."""
        wanted = path.endswith(SUFFIXES)
        try:
            below = self._directory.resolve(path)
            real = os.path.normpath(os.path.join(self._directory.real, below))
            status = os.stat(real, follow_symlinks=False)
        except BadInput as error:
            if wanted or os.path.isdir(os.path.join(self._directory.real, path)):
                self._problem(path, f"the link is not followed: {error}")
            return
        except OSError as error:
            if wanted:
                why = f"the link leads to nothing that can be read: {error.strerror}"
                self._problem(path, why)
            return
        if stat.S_ISDIR(status.st_mode):
            self._descend(f"{path}/", real, rules)
        elif wanted:
            self._add(path, real, status)

    def _rules(
        self, prefix: str, found: list[os.DirEntry[str]], above: Rules | None
    ) -> Rules | None:
        """The rules that count in this directory. Raises OSError and BadInput where its ignore file cannot be read."""
        own = next((entry for entry in found if entry.name == IGNORE_FILE), None)
        if own is None:
            return above
        stamp = stamp_of(own.stat())
        kept = self._verdicts.rules(prefix, stamp, above)
        if kept is not None:
            return kept
        content = self._directory.read(prefix + IGNORE_FILE, self._now)
        rules = compile_rules(prefix, content.data, above)
        if not content.fresh:
            self._verdicts.keep(content.stamp, rules)
        return rules
