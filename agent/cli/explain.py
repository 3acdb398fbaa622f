"""`holdfast explain`: the story of one name, from its document to its process and what it waits for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from agent.cli.jobtext import why
from agent.cli.options import output_option, state_option
from agent.cli.reading import alive_of, open_reader
from agent.cli.text import in_line
from agent.cli.typed import typed
from agent.errors import BadInput
from agent.paths import StatePaths
from agent.status import status
from state.clock import stamp

if TYPE_CHECKING:
    from state.history import Event, StepRecord

_LAST = 10


@click.command()
@click.argument("name")
@output_option
@state_option
def explain(state: StatePaths, output: str, name: str) -> None:
    """Why a name is as it is: document, process or run, last steps, what it waits for."""
    from agent.statedir import holder
    from state.ids import Name

    reader = open_reader(state)
    try:
        agent_pid = holder(state)
        whole = status(reader, state, agent_pid=agent_pid, alive=alive_of(reader, agent_pid))
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
        lines = _text(name, found, whole["agent"]["source"] or {}, state)
        click.echo("\n".join(typed(in_line(line)) for line in lines))


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


def _text(
    name: str, found: dict[str, Any], followed: dict[str, Any], state: StatePaths
) -> list[str]:
    item = found["item"]
    lines = [f"{name}: no instance of it is known"]
    if item is not None:
        said = f"{item['reason']}: {item['message']}"
        lines = [f"{name} is {item['phase']}: {said if item['kind'] == 'vm' else why(item, None)}"]
        if (source := item["source"]) is not None:
            commit = f" at commit {source['commit']}" if source["commit"] else ""
            lines.append(f"  document    {source['file']}:{source['line']}{commit}")
        lines += _of_vm(item, state) if item["kind"] == "vm" else _of_job(item, state)
        for one in item["conditions"]:
            if one["status"]:
                since = f" since {one['since']}" if one["since"] else ""
                lines.append(f"  {one['type']:<11} {one['reason']}{since}")
        if item["ssh"] is not None:
            ssh = item["ssh"]
            lines.append(f"  ssh         {ssh['user']}@{ssh['host']}, port {ssh['port']}")
    commit = f" at commit {followed['commit']}" if followed.get("commit") else ""
    for one in found["held"]:
        place = f"{one['file']}:{one['line']}:{one['column']}{commit}"
        lines.append(f"  held        {place}: {one['message']}")
    # Why what was committed since is not seen here.
    told = filter(None, (followed.get("error"), followed.get("refused")))
    lines += [f"  source      {wrong}" for wrong in told]
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


def _of_vm(item: dict[str, Any], state: StatePaths) -> list[str]:
    lines = []
    if item["uid"] is not None:
        files = state.instance(item["uid"])
        lines += [
            f"  instance    generation {item['generation']}, uid {item['uid']}",
            f"  files       {files.directory}",
            f"  image       {item['image']}, accelerated by {item['accel']}",
            f"  process     {_process(item)}",
        ]
    for port in item["ports"]:
        lines.append(f"  port        {port['address']}:{port['host']} -> {port['guest']}")
    return lines


def _of_job(item: dict[str, Any], state: StatePaths) -> list[str]:
    if item["run"] is None:
        return []
    used = ", ".join(f"{fault} {n}" for fault, n in item["retries"].items() if n)
    lines = [
        f"  run         {item['number']}, id {item['run']}, queued at {item['queued_at']}",
        f"  attempt     {item['attempt'] or 'none yet'}{f', retries used: {used}' if used else ''}",
        f"  log         {item['log']}",
        f"  image       {item['image']}",
    ]
    if item["started_at"] is not None:
        ended = f", it ended at {item['ended_at']}" if item["ended_at"] else ""
        lines.append(f"  script      began at {item['started_at']}{ended}")
    if item["exit_code"] is not None:
        lines.append(f"  exit code   {item['exit_code']}")
    if item["pid"] is not None:
        lines.append(f"  VM          uid {item['uid']}, pid {item['pid']}, by {item['accel']}")
        lines.append(f"  files       {state.instance(item['uid']).directory}")
    if item["kept_until"] is not None:
        lines.append(f"  kept        its VM, until {item['kept_until']}")
    lines += [f"  artifact    {one['path']} -> {one['file']}" for one in item["artifacts"]]
    lines += [f"  note        {note}" for note in item["notes"]]
    return lines


def _process(item: dict[str, Any]) -> str:
    if item["pid"] is None:
        return "none"
    return f"pid {item['pid']} since {item['started_at']}, restarted {item['restarts']} times"
