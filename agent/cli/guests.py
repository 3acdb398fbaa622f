"""Which instance a person means by a name, for the commands that go into a guest."""

from __future__ import annotations

from agent.cli.reading import in_memory, open_reader, still_runs
from agent.errors import BadInput
from agent.paths import StatePaths
from state.ids import Name
from state.lifecycle import Phase
from state.observed import Instance


def running_instance(state: StatePaths, name: str) -> Instance:
    """The running instance of `name`. Raises BadInput, saying what there is instead."""
    reader = open_reader(state)
    try:
        own = [one for one in reader.instances() if one.name == name]
        findings = reader.findings()
        finding = findings.get(f"vm/{name}") or findings.get(f"job/{name}")
        runs = reader.runs(Name(name))
        unreal = in_memory(reader)
    finally:
        reader.close()
    if own and unreal:
        raise BadInput(
            f"{name} exists in the memory of its agent alone: there is no guest to go into",
            hint="run the agent without `--hypervisor memory`",
        )
    for instance in reversed(own):
        if still_runs(instance):
            return instance
    if runs and not any(one.kind == "vm" for one in own):
        raise BadInput(
            f"{name} has no VM just now: its run {runs[-1].number} is {runs[-1].phase.value}",
            hint=f"see `holdfast logs {name}`; `keep_on_failure` keeps the VM of a run that fails",
        )
    if finding is None and not own:
        raise BadInput(f"there is no VM `{name}` here", hint="`holdfast status` lists every name")
    why = f"{finding.reason}: {finding.message}" if finding else own[-1].phase.value
    if finding is not None and finding.scope == "kept" and own and own[-1].phase is Phase.RUNNING:
        why = "its process is gone, and no agent has seen to it yet"
    raise BadInput(f"{name} does not run just now: {why}", hint=f"see `holdfast explain {name}`")
