"""`holdfast status`: every name, from the ledger; it needs no agent."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from agent.cli.jobtext import history_table, jobs_table
from agent.cli.options import option, output_option, state_option
from agent.cli.reading import alive_of, in_memory, open_reader
from agent.cli.tables import Fitted, fitted, screen
from agent.cli.terminal import unwinding
from agent.cli.text import in_line
from agent.cli.typed import program, state_words, typed
from agent.errors import BadInput
from agent.jobs.told import result
from agent.paths import StatePaths
from agent.status import status as status_of
from state.ids import Name

if TYPE_CHECKING:
    from rich.console import RenderableType


_LOOK_AGAIN = 0.5
"""Seconds between looks with --watch."""
_PAST = 5
"""Runs of the one job that was asked for."""


@click.command()
@click.argument("name", required=False)
@option("--watch", is_flag=True, envvar=None, help="Show it again whenever it changes.")
@output_option
@state_option
def status(state: StatePaths, output: str, watch: bool, name: str | None) -> None:
    """Every name, or one: phase, ready, reason, SSH, age, restarts."""

    def look() -> Looked:
        return _look(state, name)

    if watch and output == "text" and sys.stdout.isatty():
        _watch(look)
        return
    looked = look()
    if output == "json":
        click.echo(json.dumps(looked.found, indent=1))
        return
    console, width = screen()
    console.print(table(looked, width))


@dataclass(frozen=True)
class Looked:
    """One look: `found` is the `status -o json` shape; `past` are the runs of the one name that was asked for, the
    latest first, each in the shape of `result.json`."""

    found: dict[str, Any]
    state: StatePaths
    in_memory: bool
    past: list[dict[str, Any]]


def _look(state: StatePaths, name: str | None) -> Looked:
    from agent.statedir import holder

    reader = open_reader(state)
    try:
        agent_pid = holder(state)
        found = status_of(reader, state, agent_pid=agent_pid, alive=alive_of(reader, agent_pid))
        runs = reader.runs(Name(name)) if name is not None else []
        past = [result(run, state.run(run.id)) for run in reversed(runs)]
        looked = Looked(found, state, in_memory(reader), past)
    finally:
        reader.close()
    if name is not None:
        for part in ("items", "held", "waiting"):
            found[part] = [one for one in found[part] if one["name"] == name]
        if not (found["items"] or found["held"] or found["waiting"]):
            ran = f"its past runs: `holdfast job history {name}`" if looked.past else ""
            raise BadInput(
                f"there is no `{name}` here", hint=ran or "`holdfast status` lists every name"
            )
    return looked


def _watch(look: Callable[[], Looked]) -> None:
    from rich.live import Live

    waiting = threading.Event()
    shown: tuple[Looked, int] | None = None
    with unwinding(), Live(auto_refresh=False) as live:
        while True:
            looked = look()
            if (looked, live.console.width) != shown:
                live.update(table(looked, live.console.width), refresh=True)
                shown = looked, live.console.width
            waiting.wait(_LOOK_AGAIN)


def table(looked: Looked, width: int | None = None) -> RenderableType:
    """The VMs and the jobs, and under them what is held, waiting or wrong, for a screen of so many columns."""
    from rich.console import Group
    from rich.text import Text

    items = looked.found["items"]
    vms = [one for one in items if one["kind"] == "vm"]
    jobs = [one for one in items if one["kind"] == "job"]
    shown = [] if jobs and not vms else [_vms(vms, looked, width)]
    if jobs:
        shown.append(jobs_table(jobs, lambda one: _ssh(one, looked), time.time(), width))  # noqa: TID251
    tables: list[RenderableType] = [one.table for one in shown]
    if looked.past:
        tables += [Text(), history_table(looked.past[:_PAST], width)]
    lines = _lines(looked)
    if any("SSH" in one.without for one in shown):
        lines[:0] = _ways(items, looked)
    return Group(*tables, *(Text(typed(in_line(line))) for line in lines))


def _vms(items: list[dict[str, Any]], looked: Looked, width: int | None) -> Fitted:
    from rich.text import Text

    columns = [
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
    ]
    rows = [
        (
            item["name"],
            Text(item["phase"], style=_COLOURS.get(item["phase"], "")),
            "yes" if item["ready"] else "no",
            _age(item["started_at"]),
            str(item["restarts"]),
            str(item["pid"] or "-"),
            item["image"] or "-",
            item["accel"] or "-",
            _ssh(item, looked),
            Text(typed(in_line(_reason(item)))),
        )
        for item in items
    ]
    return fitted(columns, rows, width, ("SSH", "PID", "ACCEL"))


def _reason(item: dict[str, Any]) -> str:
    reason = str(item["reason"])
    return reason if reason in ("Ready", "Running", "") else f"{reason}: {item['message']}"


def _ways(items: list[dict[str, Any]], looked: Looked) -> list[str]:
    """How to log in, where the table has no room to say it of each."""
    names = [item["name"] for item in items if _ssh(item, looked) != "-"]
    if not names:
        return []
    return [f"ssh: {_login(names[0] if len(names) == 1 else 'NAME', looked)}"]


_COLOURS = {
    "running": "green", "paused": "yellow", "unresponsive": "red", "crashed": "red",
    "pending": "yellow", "starting": "yellow", "stopping": "yellow", "stopped": "dim",
}  # fmt: skip


def _lines(looked: Looked) -> list[str]:
    found = looked.found
    agent, lines = found["agent"], []
    if agent["running"]:
        source = agent["source"] or {}
        who = (
            f"pid {agent['pid']}" if agent["pid"] else "out of sight, perhaps in another container"
        )
        lines.append(f"agent: {who}, {source.get('location', 'starting')}{_revision(source)}")
    elif looked.in_memory:
        lines.append("agent: none is running; its VMs existed in its memory and ended with it")
    else:
        alive = any(item["pid"] for item in found["items"])
        known = "; VMs run on, and `holdfast run` adopts them" if alive else ""
        lines.append(f"agent: none is running{known}")
    if agent["suspended_at"]:
        ago = _age(agent["suspended_at"])
        lines.append(f"suspended: {ago} ago: nothing is done (`holdfast resume` goes on)")
    names = {item["name"] for item in found["items"]} | {one["name"] for one in found["held"]}
    ours = {one["message"]: _place(one) for one in found["errors"]}
    for one in found["held"]:
        place = ours.get(one["message"])
        said = one["message"] if place is None else f"see {place.removesuffix(': ')}"
        lines.append(f"held: {one['name']}: {_place(one)}{said}")
    lines += [f"error: {_place(one)}{one['message']}" for one in found["errors"]]
    lines += [
        f"waiting: {one['name']}: {one['reason']}: {one['message']}"
        for one in found["waiting"]
        if one["name"] not in names
    ]
    return lines


def _revision(source: dict[str, Any]) -> str:
    """Which commit is followed, and how old that word is."""
    commit = f" at commit {source['commit'][:12]}" if source.get("commit") else ""
    if source.get("dirty"):
        commit += " with uncommitted changes"
    fetched = f", fetched {_age(source['fetched_at'])} ago" if source.get("fetched_at") else ""
    return commit + fetched


def _place(one: dict[str, Any]) -> str:
    if not one["file"]:
        return ""
    place = f"{one['file']}:{one['line']}:{one['column'] or 1}" if one["line"] else one["file"]
    return f"{place}: "


def _ssh(item: dict[str, Any], looked: Looked) -> str:
    lives = item["phase"] == "running" if item["kind"] == "vm" else item["pid"] is not None
    if item["ssh"] is None or not lives or looked.in_memory:
        return "-"
    return _login(item["name"], looked)


def _login(name: str, looked: Looked) -> str:
    return f"{program()} ssh{state_words(looked.state)} {name}"


def _age(started: str | None) -> str:
    if started is None:
        return "-"
    seconds = int(time.time() - datetime.fromisoformat(started).astimezone(UTC).timestamp())  # noqa: TID251
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"
