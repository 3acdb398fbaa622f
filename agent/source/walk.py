"""Lists the files of a tree that may hold documents, and opens none of them.

Dotfiles, editor backups (which do not end in `.yaml`) and what `.holdfastignore` names are passed over in silence; what
could hold documents but cannot be listed is a problem; what is no regular file gets a word of advice.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from agent.errors import BadInput
from agent.source.ignore import Rules, Verdicts, compile_rules
from agent.source.text import Unreadable
from agent.source.tree import IGNORE_FILE, SUFFIXES, Content, Entry, Folder, Look, shown
from state.desired import Advice, Problem, SourceRef


class Found(Protocol):
    """Something that lies in a directory, as `os.DirEntry` tells of it. `path` is the key of what it is: the same
    whatever leads to it."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...
    def is_symlink(self) -> bool: ...


F = TypeVar("F", bound=Found)
_Place = tuple[str, str, Rules | None]
"""A directory to go into: what its files are known as before their names, its key, and what is ignored in it."""


class Files(Protocol[F]):
    """What is walked through. Paths are below its top, keys are those of what was found."""

    @property
    def top(self) -> str:
        """The key of the directory that everything lies in."""

    def listing(self, key: str) -> Sequence[F]:
        """What lies in a directory. Raises OSError."""

    def settled(self, key: str) -> Hashable | None:
        """What is another as soon as anything in the directory is; None where nothing tells. Raises OSError."""

    def stamp_of(self, found: F, now: float) -> tuple[Hashable, bool] | None:
        """The stamp of a file, and whether it is too fresh to prove anything; None for what is no regular file. Raises
        OSError."""

    def follow(self, path: str) -> F:
        """What the symbolic link at `path` leads to. Raises BadInput where it is not to be followed, OSError where it
        leads nowhere."""

    def leads_to_directory(self, path: str) -> bool:
        """Whether the symbolic link at `path` leads to a directory, wherever that lies, or may do so."""

    def read(self, path: str, now: float) -> Content:
        """A file. Raises BadInput."""


class Walk(Generic[F]):
    """One look at a tree. `before` is what the last look found: entries that are the same stay the same objects, since
    ten thousand new ones a look would keep the garbage collector busy."""

    def __init__(self, files: Files[F], verdicts: Verdicts, before: Look, now: float) -> None:
        self._last, self._same = before, 0
        self._before = before.by_path
        self._known = before.folders
        self._folders: dict[tuple[str, str], Folder] = {}
        self._is_first = True
        self._files = files
        self._verdicts = verdicts
        self._now = now
        self._entries: list[Entry] = []
        self._problems: list[Problem] = []
        self._advice: list[Advice] = []
        self._links: list[tuple[str, Rules | None]] = []
        self._walked: set[str] = set()
        self._taken: set[str] = set()
        self._keys: list[str] = []
        verdicts.begin()

    def look(self) -> Look:
        """Everything below the top."""
        self._descend("", self._files.top, None)
        self._is_first = False
        while self._links:
            links, self._links = sorted(self._links, key=lambda link: link[0]), []
            for path, rules in links:
                self._follow(path, rules)
        said = (tuple(self._problems), tuple(self._advice), self._folders)
        before = self._last
        if self._same == len(self._entries) == len(before.entries):
            return before if said == before.said else Look(before.entries, *said)
        self._entries.sort(key=lambda entry: entry.path)
        return Look(tuple(self._entries), *said)

    def _problem(self, path: str, message: str, line: int = 0, column: int = 0) -> None:
        self._problems.append(Problem(shown(path), line, column, message))

    def _descend(self, top: str, key: str, rules: Rules | None) -> None:
        """Walk the directory whose files are to be known as `top` + name; `top` is empty or ends in `/`."""
        waiting = [(top, key, rules)]
        while waiting:
            prefix, key, rules = waiting.pop()
            if key not in self._walked:
                self._walked.add(key)
                waiting += self._enter(prefix, key, rules)

    def _enter(self, prefix: str, key: str, above: Rules | None) -> list[_Place]:
        """Take in what lies in one directory; the directories in it to go on with."""
        try:
            found = list(reversed(self._files.listing(key)))
            # Through links a file may be come to a second time, and rules are others from place to place.
            plain = self._is_first and above is None
            stamp = self._files.settled(key) if plain else None
        except OSError as error:
            self._problem(prefix or ".", f"the directory cannot be read: {error.strerror}")
            return []
        known = self._known.get((prefix, key))
        if stamp is not None and known is not None and known.stamp == stamp:
            return self._again(prefix, key, known)
        try:
            rules = self._rules(prefix, found, above)
        except (BadInput, OSError) as error:
            place = (error.line, error.column) if isinstance(error, Unreadable) else (0, 0)
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._problem(prefix + IGNORE_FILE, f"the ignore file cannot be used: {why}", *place)
            return []
        entries, links, said = self._counts()
        below = self._listed(prefix, found, rules)
        if stamp is not None and rules is None and said == self._counts()[2]:
            self._folders[prefix, key] = Folder(
                stamp,
                tuple(self._entries[entries:]),
                tuple(self._keys[entries:]),
                tuple(below),
                tuple(path for path, _ in self._links[links:]),
            )
        return [(into, at, rules) for into, at in below]

    def _again(self, prefix: str, key: str, folder: Folder) -> list[_Place]:
        """As `_enter`, of a directory that is as it was."""
        self._folders[prefix, key] = folder
        self._entries += folder.entries
        self._keys += folder.keys
        self._taken.update(folder.keys)
        self._links += [(path, None) for path in folder.links]
        return [(into, at, None) for into, at in folder.below]

    def _counts(self) -> tuple[int, int, int]:
        """How many entries and links there are by now, and how many things to say."""
        said = len(self._problems) + len(self._advice)
        return len(self._entries), len(self._links), said

    def _listed(self, prefix: str, found: list[F], rules: Rules | None) -> list[tuple[str, str]]:
        """Take in the files, from the last on; the directories, by path and key. Nothing is left of `found`, so
        that what the next look takes need not be new memory."""
        below = []
        while found:
            entry = found.pop()
            try:
                if self._is_directory(prefix, entry, rules):
                    below.append((f"{prefix}{entry.name}/", entry.path))
            except OSError as error:
                why = f"the file cannot be looked at: {error.strerror}"
                self._problem(prefix + entry.name, why)
        return below

    def _is_directory(self, prefix: str, entry: F, rules: Rules | None) -> bool:
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
            self._add(path, entry)
        return False

    def _add(self, path: str, found: F) -> None:
        if found.path in self._taken:
            return
        self._taken.add(found.path)
        stamped = self._files.stamp_of(found, self._now)
        if stamped is not None:
            before = self._before.get(path)
            if before is not None and before[1:] == stamped:
                self._same += 1
            else:
                before = Entry(path, *stamped)
            self._entries.append(before)
            self._keys.append(found.path)
        else:
            where = SourceRef(shown(path), 0)
            self._advice.append(Advice(where, "is no regular file and was not opened"))

    def _follow(self, path: str, rules: Rules | None) -> None:
        """A link is only another name: what it leads to counts where it lies, or here if it lies where no walk goes."""
        wanted = path.endswith(SUFFIXES)
        try:
            found = self._files.follow(path)
            if found.is_dir(follow_symlinks=False):
                self._descend(f"{path}/", found.path, rules)
            elif wanted:
                self._add(path, found)
        except BadInput as error:
            if wanted or self._files.leads_to_directory(path):
                self._problem(path, f"the link is not followed: {error}")
        except OSError as error:
            if wanted:
                why = f"the link leads to nothing that can be read: {error.strerror}"
                self._problem(path, why)

    def _rules(self, prefix: str, found: Sequence[F], above: Rules | None) -> Rules | None:
        """The rules that count in this directory. Raises OSError and BadInput where its ignore file cannot be read."""
        own = next((entry for entry in found if entry.name == IGNORE_FILE), None)
        if own is None:
            return above
        path = prefix + IGNORE_FILE
        target = self._files.follow(path) if own.is_symlink() else own
        stamped = self._files.stamp_of(target, self._now)
        kept = self._verdicts.rules(prefix, stamped, above)
        if kept is not None:
            return kept
        content = self._files.read(path, self._now)
        rules = compile_rules(prefix, content.data, above)
        if not content.fresh:
            self._verdicts.keep((content.stamp, False), rules)
        return rules
