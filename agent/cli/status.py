"""`holdfast status`: every name, from the ledger; it needs no agent."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import option, output_option, state_option
from agent.cli.reading import open_reader, still_runs
from agent.errors import BadInput
from agent.paths import StatePaths, default_state
from agent.status import status as status_of
from state.records import SETTINGS_KEY

if TYPE_CHECKING:
    from rich.console import RenderableType


_LOOK_AGAIN = 0.5
"""Seconds between looks with --watch."""
_NO_TERMINAL = 240
"""Columns where nobody's screen sets them."""


@click.command()
@click.argument("name", required=False)
@option("--watch", is_flag=True, envvar=None, help="Show it again whenever it changes.")
@output_option
@state_option
def status(state: StatePaths, output: str, watch: bool, name: str | None) -> None:
    """Every name, or one: phase, ready, reason, SSH, age, restarts."""

    def look() -> dict[str, Any]:
        return _look(state, name)

    if watch and output == "text" and sys.stdout.isatty():
        _watch(look, state)
        return
    found = look()
    if output == "json":
        click.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_NO_TERMINAL)
    console.print(table(found, state))


def _look(state: StatePaths, name: str | None) -> dict[str, Any]:
    from agent.statedir import holder

    reader = open_reader(state)
    try:
        agent_pid = holder(state)
        found = status_of(reader, agent_pid=agent_pid, alive=alive_of(reader, agent_pid))
    finally:
        reader.close()
    if name is not None:
        for part in ("items", "held", "waiting"):
            found[part] = [one for one in found[part] if one["name"] == name]
        if not (found["items"] or found["held"] or found["waiting"]):
            raise BadInput(f"there is no `{name}` here", hint="`holdfast status` lists every name")
    return found


def alive_of(reader: Any, agent_pid: int | None) -> Callable[[Any], bool]:
    """How to tell what still runs: machines in memory live as long as their agent."""
    settings = json.loads(reader.meta(SETTINGS_KEY) or "{}")
    if settings.get("hypervisor") == "memory":
        return lambda _: agent_pid is not None
    return still_runs


def _watch(look: Callable[[], dict[str, Any]], state: StatePaths) -> None:
    from rich.live import Live

    waiting = threading.Event()
    shown: dict[str, Any] | None = None
    with Live(auto_refresh=False) as live:
        while True:
            found = look()
            if found != shown:
                live.update(table(found, state), refresh=True)
                shown = found
            waiting.wait(_LOOK_AGAIN)


def table(found: dict[str, Any], state: StatePaths) -> RenderableType:
    """The table, and under it what is held, waiting or wrong."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "NAME",
        "PHASE",
        "READY",
        "AGE",
        "RESTARTS",
        "PID",
        "IMAGE",
        "ACCEL",
        "SSH",
        "REASON",
    ):
        shown.add_column(column, no_wrap=column not in ("SSH", "REASON"), overflow="fold")
    for item in found["items"]:
        reason = item["reason"]
        if reason not in ("Ready", "Running", ""):
            reason = f"{reason}: {item['message']}"
        shown.add_row(
            item["name"],
            Text(item["phase"], style=_COLOURS.get(item["phase"], "")),
            "yes" if item["ready"] else "no",
            _age(item["started_at"]),
            str(item["restarts"]),
            str(item["pid"] or "-"),
            item["image"] or "-",
            item["accel"] or "-",
            _ssh(item, state),
            Text(reason),
        )
    under = [Text(line) for line in _lines(found)]
    return Group(shown, *under)


_COLOURS = {
    "running": "green", "paused": "yellow", "unresponsive": "red", "crashed": "red",
    "pending": "yellow", "starting": "yellow", "stopping": "yellow", "stopped": "dim",
}  # fmt: skip


def _lines(found: dict[str, Any]) -> list[str]:
    agent, lines = found["agent"], []
    if agent["running"]:
        source = agent["source"] or {}
        lines.append(f"agent: pid {agent['pid']}, {source.get('location', 'starting')}")
    else:
        lines.append("agent: none is running; VMs run on, and `holdfast run` adopts them")
    names = {item["name"] for item in found["items"]}
    lines += [f"held: {one['name']}: {_place(one)}{one['message']}" for one in found["held"]]
    lines += [f"error: {_place(one)}{one['message']}" for one in found["errors"]]
    lines += [
        f"waiting: {one['name']}: {one['reason']}: {one['message']}"
        for one in found["waiting"]
        if one["name"] not in names
    ]
    return lines


def _place(one: dict[str, Any]) -> str:
    if not one["file"]:
        return ""
    place = f"{one['file']}:{one['line']}:{one['column'] or 1}" if one["line"] else one["file"]
    return f"{place}: "


def _ssh(item: dict[str, Any], state: StatePaths) -> str:
    if item["ssh"] is None or item["phase"] != "running":
        return "-"
    where = "" if state.root == default_state() else f" --state {_short(state)}"
    return f"{_program()} ssh{where} {item['name']}"


def _program() -> str:
    """How this program was called, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    found = shutil.which("holdfast")
    if called.name != "holdfast" or (found and Path(found).samefile(called)):
        return "holdfast"
    return os.path.relpath(called)


def _short(state: StatePaths) -> str:
    relative = os.path.relpath(state.root)
    return str(state.root) if relative.startswith("..") else relative


def _age(started: str | None) -> str:
    if started is None:
        return "-"
    seconds = int(time.time() - datetime.fromisoformat(started).astimezone(UTC).timestamp())  # noqa: TID251
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"
