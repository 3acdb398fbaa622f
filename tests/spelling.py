"""Documents as random data, and the many hands in which YAML can be written."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
words = st.text(string.ascii_letters + string.digits + " .,:;#'\"\\-_{}[]&*!|>%@`=~é", max_size=20)
labels = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), words, max_size=4)


def scalar(value: object, chance: random.Random) -> str:
    """A value as one of the ways in which YAML can spell it."""
    if isinstance(value, bool):
        return chance.choice(["true", "True", "TRUE"] if value else ["false", "False", "FALSE"])
    if isinstance(value, int) and value < 0:
        return str(value)
    if isinstance(value, int):
        return chance.choice([str(value), f"+{value}", hex(value), f"0o{value:o}"])
    text = str(value)
    ways = [json.dumps(text, ensure_ascii=chance.random() < 0.5)]
    if "\n" not in text:
        ways.append("'" + text.replace("'", "''") + "'")
    if text.replace("-", "").isalpha() and text.lower() not in ("true", "false", "null"):
        ways.append(text)
    return chance.choice(ways)


def flow(value: object, chance: random.Random) -> str:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return (
            "{"
            + ", ".join(f"{scalar(key, chance)}: {flow(one, chance)}" for key, one in items)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(flow(one, chance) for one in value) + "]"
    return scalar(value, chance)


def spelled(document: Mapping[str, Any], chance: random.Random) -> str:
    """The document in another hand: other order, quotes, comments, brackets and line ends."""
    items = list(document.items())
    chance.shuffle(items)
    lines = [f"{scalar(key, chance)}:  {flow(value, chance)}" for key, value in items]
    if chance.random() < 0.5:
        lines = [line + chance.choice(["", "  # why"]) for line in lines]
        lines.insert(chance.randrange(len(lines) + 1), "# a comment: [")
    if chance.random() < 0.3:
        lines.insert(0, "---")
    return chance.choice(["\n", "\r\n"]).join(lines) + chance.choice(["", "\n", "\n...\n"])
