"""A status as a page of Markdown, for people who look at a repository. Pure."""

from __future__ import annotations

import re
from typing import Any

_ACTIVE = re.compile(r"[\\`*_{}\[\]<>()#+!|~&$@:]|(?<=www)\.")
"""Also of GitHub's dialect, which makes a link of what begins with `www.`."""


def page(status: dict[str, Any], host: str) -> str:
    """The page. Whatever a document or a guest says stands in it as text, and acts on nothing."""
    source = status["agent"]["source"] or {}
    commit = f" at commit `{source['commit'][:12]}`" if source.get("commit") else ""
    lines = [
        f"# {_plain(host)}",
        "",
        f"As {_plain(source.get('location', 'documents'))}{commit} says.",
        "",
    ]
    if status["agent"]["suspended_at"]:
        lines += [f"**Suspended** since {status['agent']['suspended_at']}.", ""]
    lines += ["| name | kind | phase | ready | why |", "|---|---|---|---|---|"]
    for item in status["items"]:
        well = item["phase"] == "succeeded" if item["kind"] == "job" else item["ready"]
        why = (
            item["message"]
            if item["reason"] in ("Ready", "")
            else f"{item['reason']}: {item['message']}"
        )
        cells = (item["name"], item["kind"], item["phase"], "yes" if well else "no", why)
        lines.append(f"| {' | '.join(map(_plain, cells))} |")
    wrong = [
        *(f"held: {one['name']}: {_place(one)}{one['message']}" for one in status["held"]),
        *(f"error: {_place(one)}{one['message']}" for one in status["errors"]),
        *(
            f"waiting: {one['name']}: {one['reason']}: {one['message']}"
            for one in status["waiting"]
        ),
    ]
    if wrong:
        lines += ["", *(f"- {_plain(one)}" for one in wrong)]
    return "\n".join(lines) + "\n"


def _place(one: dict[str, Any]) -> str:
    return f"{one['file']}:{one['line'] or 1}: " if one["file"] else ""


def _plain(text: object) -> str:
    """CommonMark, 2.4: a backslash before ASCII punctuation takes its meaning away."""
    return _ACTIVE.sub(lambda found: "\\" + found[0], " ".join(str(text).split()))
