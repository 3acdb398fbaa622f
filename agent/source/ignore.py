"""Which files of a tree its `.holdfastignore` files name: gitignore's syntax and precedence."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.source.text import Unreadable, decoded

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_MOST_STARS = 4
"""Runs of `*` in one pattern. Each multiplies the time that a long name can take to be compared."""
_LONGEST = 512


@dataclass(frozen=True, eq=False)
class Rules:
    """The patterns of one file, which count below `prefix` (empty, or ends in `/`), before those of `above`."""

    prefix: str
    spec: GitIgnoreSpec
    above: Rules | None

    def ignores(self, path: str) -> bool:
        """Whether `path` is ignored; that of a directory ends in `/`."""
        rules: Rules | None = self
        while rules is not None:
            verdict = rules.spec.check_file(path[len(rules.prefix) :]).include
            if verdict is not None:
                return verdict
            rules = rules.above
        return False


def compile_rules(prefix: str, data: bytes, above: Rules | None) -> Rules:
    """The rules of an ignore file's content. Raises Unreadable, with the line that is no pattern."""
    from pathspec import GitIgnoreSpec  # only trees that have such a file pay for it

    lines = decoded(data).splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST or len(re.findall(r"\*+", line)) > _MOST_STARS:
            raise Unreadable(
                number, 1, "this pattern is too long or has too many `*`", hint="split it"
            )
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:
            raise Unreadable(number, 1, "this is no gitignore pattern", hint="remove it") from error
    return Rules(prefix, GitIgnoreSpec.from_lines(lines), above)


class Verdicts:
    """Remembers from look to look what is ignored: comparing ten thousand names takes longer than listing them."""

    def __init__(self) -> None:
        self._rules: dict[str, tuple[Rules | None, Hashable, Rules]] = {}
        self._known: dict[str, tuple[Rules, bool]] = {}
        self._next: dict[str, tuple[Rules, bool]] = {}

    def begin(self) -> None:
        """A look begins: what the last one did not ask for is forgotten."""
        self._known, self._next = self._next, {}

    def rules(self, prefix: str, stamp: Hashable, above: Rules | None) -> Rules | None:
        """The rules of the ignore file at `prefix` if it is still the one that was kept."""
        kept = self._rules.get(prefix)
        if kept is not None and kept[0] is above and kept[1] == stamp:
            return kept[2]
        return None

    def keep(self, stamp: Hashable, rules: Rules) -> None:
        """Keep the rules of a file with this stamp."""
        self._rules[rules.prefix] = (rules.above, stamp, rules)

    def ignores(self, rules: Rules, path: str) -> bool:
        """As `rules.ignores(path)`."""
        known = self._known.get(path)
        if known is None or known[0] is not rules:
            known = (rules, rules.ignores(path))
        self._next[path] = known
        return known[1]
