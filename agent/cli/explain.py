"""`holdfast explain`: the story of one name, from its document to its process and what it waits for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import output_option, state_option
from agent.cli.reading import alive_of, open_reader
from agent.cli.text import harmless
from agent.errors import BadInput
from agent.paths import StatePaths
from agent.status import stamp, status

if TYPE_CHECKING:
    from state.history import Event, StepRecord

_LAST = 10


@click.command()
@click.argument("name")
@output_option
@state_option
def explain(state: StatePaths, output: str, name: str) -> None:
    """Why a name is as it is: document, process, last steps, what it waits for."""
    from agent.statedir import holder
    from state.ids import Name

    reader = open_reader(state)
    try:
        agent_pid = holder(state)
        whole = status(reader, agent_pid=agent_pid, alive=alive_of(reader, agent_pid))
        found: dict[str, Any] = {
            "item": next((one for one in whole["items"] if one["name"] == name), None),
            "held": [one for one in whole["held"] if one["name"] == name],
            "waiting": [one for one in whole["waiting"] if one["name"] == name],
            "steps": [_step(one) for one in reader.steps(name=Name(name), last=_LAST)],
            "events": [_event(one) for one in reader.events(name=Name(name), last=_LAST)],
        }
    finally:
        reader.close()
    if not any(found.values()):
        raise BadInput(f"nothing is known of `{name}`", hint="`holdfast status` lists every name")
    if output == "json":
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(harmless("\n".join(_text(name, found, state))))


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "action": step.action,
        "because": step.because,
        "begun_at": stamp(step.begun_at),
        "ended_at": stamp(step.ended_at),
        "outcome": step.outcome or "under way",
        "error": step.error,
    }


def _event(event: Event) -> dict[str, Any]:
    return {"at": stamp(event.at), "reason": event.reason, "message": event.message}


def _text(name: str, found: dict[str, Any], state: StatePaths) -> list[str]:
    item = found["item"]
    lines = [f"{name}: no instance of it is known"]
    if item is not None:
        lines = [f"{name} is {item['phase']}: {item['reason']}: {item['message']}"]
        if (source := item["source"]) is not None:
            commit = f" at commit {source['commit']}" if source["commit"] else ""
            lines.append(f"  document    {source['file']}:{source['line']}{commit}")
        if item["uid"] is not None:
            files = state.instance(item["uid"])
            lines += [
                f"  instance    generation {item['generation']}, uid {item['uid']}",
                f"  files       {files.directory}",
                f"  image       {item['image']}, accelerated by {item['accel']}",
                f"  process     {_process(item)}",
            ]
        if item["ssh"] is not None:
            ssh = item["ssh"]
            lines.append(f"  ssh         {ssh['user']}@{ssh['host']}, port {ssh['port']}")
        for port in item["ports"]:
            lines.append(f"  port        {port['address']}:{port['host']} -> {port['guest']}")
    for one in found["held"]:
        lines.append(f"  held        {one['file']}:{one['line']}:{one['column']}: {one['message']}")
    for one in found["waiting"]:
        lines.append(f"  waits       {one['reason']}: {one['message']}")
    for one in found["steps"]:
        ended = f" ({one['error']})" if one["error"] else ""
        lines.append(
            f"  step        {one['begun_at']} {one['action']}: {one['because']}: {one['outcome']}{ended}"
        )
    for one in found["events"]:
        lines.append(f"  event       {one['at']} {one['reason']}: {one['message']}")
    return lines


def _process(item: dict[str, Any]) -> str:
    if item["pid"] is None:
        return "none"
    return f"pid {item['pid']} since {item['started_at']}, restarted {item['restarts']} times"
