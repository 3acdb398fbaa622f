"""How messages speak of what a document says: values quoted safely, unknown words with a guess at the meant one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 60
_MOST_GUESSED = 500


def quoted(value: object) -> str:
    """`value` in backticks: on one line, cut where it is long, with everything unprintable escaped, so that a hostile
    text can neither flood nor forge a log or a terminal."""
    match value:
        case bool():
            text = "true" if value else "false"
        case None:
            text = "null"
        case str() | int() | float():
            text = str(value)
        case dict():
            return "a mapping"
        case _:
            return "a list"
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return f"`{printable(text)}`"


def printable(text: str) -> str:
    """`text` with everything that does not print, or that reorders what does, as an escape such as `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def excerpt(said: object, most: int = 300) -> str:
    """What another program said, for a sentence of ours: on one line, harmless, and of `most` characters at most."""
    text = printable(" ".join(str(said)[: most + 1].split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *rest, final = list(words)
    return f"{', '.join(rest)} {last} {final}" if rest else final


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint in parentheses with a space before it: the likeliest of `known`, or all of them where they are few; empty
    where nothing helps, or where there are so many that looking for it would take long."""
    names = list(known)
    if len(names) > _MOST_GUESSED:
        return ""
    plain = {name.lower().replace("_", "").replace("-", ""): name for name in names}
    key = word[:128].lower().replace("_", "").replace("-", "")
    if close := difflib.get_close_matches(key, plain, n=1, cutoff=0.6):
        return f" (did you mean `{plain[close[0]]}`?)"
    if 0 < len(names) <= 8:
        return f" (known: {', '.join(names)})"
    return ""
