"""Which instance a person means by a name, and the way into its guest, for the commands that go there."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from agent.cli.reading import in_memory, open_reader, still_runs
from agent.errors import BadInput, NotReady
from agent.paths import StatePaths
from state.ids import Name
from state.lifecycle import Phase
from state.observed import Instance

if TYPE_CHECKING:
    from agent.guest.ssh import Transport

T = TypeVar("T")

_LOGIN = 20.0
_PATIENCE = 10.0
"""Seconds after which a login that fails is not tried again."""
_BOOT = 60.0
"""Seconds that a guest that is not ready yet is waited for, knocking for some at a time."""
_KNOCKS = 5.0


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


@contextmanager
def entered(state: StatePaths, name: str) -> Iterator[Transport]:
    """Logged into the guest of `name`, as long as the block lasts; one that is not ready yet is waited for. Raises
    BadInput, NotReady, HostKeyChanged."""
    from agent.guest.knocking import knocks
    from agent.guest.ssh import endpoint, session

    instance = running_instance(state, name)
    port = instance.ssh_port
    if port is None:
        raise BadInput(
            f"{name} cannot be logged into: its image takes no keys (nocloud is false)",
            hint=f"try `holdfast console {name}`",
        )
    user = json.loads(instance.spec)["image"]["ssh_user"]
    to = endpoint(state, instance.name, port, user)
    with ExitStack() as stack:
        try:
            if instance.ready_at is None:
                # A login that is begun before the guest has a network is answered long after it has one.
                _patiently(
                    lambda: asyncio.run(knocks(instance.name, port, _KNOCKS)), _BOOT - _KNOCKS
                )
            # cloud-init restarts the SSH server of a guest that has just let us in.
            transport = _patiently(
                lambda: stack.enter_context(session(state, instance.name, to, _LOGIN)), _PATIENCE
            )
        except NotReady as error:
            hint = f"see whether it still boots: `holdfast console {name}`"
            raise NotReady(error.message, hint=hint) from error
        yield transport


def _patiently(enter: Callable[[], T], seconds: float) -> T:
    """Try again while it is no longer than so many seconds since the first try began. Raises NotReady."""
    waiting, end = threading.Event(), time.monotonic() + seconds
    while True:
        try:
            return enter()
        except NotReady:
            if time.monotonic() > end:
                raise
        waiting.wait(0.5)
