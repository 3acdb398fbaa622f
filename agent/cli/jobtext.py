"""Jobs and their runs as a person reads them: tables, and the few words that say how one stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.cli.tables import Fitted, fitted
from agent.cli.text import in_line, span

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {
    "queued": "yellow", "booting": "cyan", "running": "cyan", "succeeded": "green",
    "failed": "red", "error": "red", "timeout": "red", "cancelled": "dim", "interrupted": "yellow",
}  # fmt: skip
_PLAIN = frozenset({"Booting", "Running", "Succeeded"})
"""Reasons that say it all: what their message adds stands in columns of its own."""


def jobs_table(
    items: list[dict[str, Any]],
    ssh: Callable[[dict[str, Any]], str],
    now: float,
    width: int | None = None,
) -> Fitted:
    """The jobs of `status -o json`, one a line; `ssh` says how to get into one, `now` is Unix time; `width` is the
    screen's, None where nothing limits it."""
    ways = [ssh(item) for item in items]
    entered = any(way != "-" for way in ways)
    columns = [
        "JOB",
        "RUN",
        "PHASE",
        "ATTEMPT",
        "EXIT",
        "AGE",
        "TOOK",
        *["SSH"] * entered,
        "REASON",
    ]
    rows = [
        (
            item["name"],
            str(item["number"] or "-"),
            phase(item),
            str(item["attempt"] or "-"),
            exit_code(item),
            span(int(now - _unix(item["queued_at"]))) if item["queued_at"] else "-",
            took(item, now),
            *[way] * entered,
            _text(why(item, now)),
        )
        for item, way in zip(items, ways, strict=True)
    ]
    return fitted(columns, rows, width, ("SSH", "ATTEMPT", "AGE"))


def history_table(runs: list[dict[str, Any]], width: int | None = None) -> Table:
    """Runs in the shape of `result.json`, one a line; `width` as above."""
    columns = ["RUN", "PHASE", "ATTEMPTS", "EXIT", "QUEUED", "TOOK", "REASON", "ID"]
    rows = [
        (
            str(run["number"]),
            phase(run),
            str(run["attempt"]),
            exit_code(run),
            run["queued_at"].partition(".")[0] + "Z",
            took(run, None),
            _text(why(run, None)),
            run["run"],
        )
        for run in runs
    ]
    # A run goes by its number as well as by its id.
    return fitted(columns, rows, width, ("ID", "ATTEMPTS")).table


def _text(words: str) -> Any:
    from rich.text import Text

    return Text(words)


def phase(run: dict[str, Any]) -> Any:
    """The phase in its colour."""
    from rich.text import Text

    return Text(run["phase"], style=COLOURS[run["phase"]])


def exit_code(run: dict[str, Any]) -> str:
    """The script's exit code, if there is one."""
    return "-" if run["exit_code"] is None else str(run["exit_code"])


def took(run: dict[str, Any], now: float | None) -> str:
    """How long the script of the last attempt took, or has taken up to `now`."""
    end = _unix(run["ended_at"]) if run["ended_at"] else now
    if run["started_at"] is None or end is None:
        return "-"
    return span(end - _unix(run["started_at"]))


def why(run: dict[str, Any], now: float | None) -> str:
    """Why it is as it is, in a few words."""
    reason, message = run["reason"], run["message"]
    said = reason if reason in _PLAIN or not message else f"{reason}: {message}"
    if message.lower().startswith(f"{reason.lower()}:"):
        said = message
    kept = run["kept_until"]
    if kept is not None and now is not None and _unix(kept) > now:
        said += f"; its VM is kept for {span(_unix(kept) - now)} more"
    return in_line(said) or "-"


def _unix(stamped: str) -> float:
    return datetime.fromisoformat(stamped).timestamp()
