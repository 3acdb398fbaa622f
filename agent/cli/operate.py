"""`holdfast approve`, `suspend`, `resume` and `reconcile`: what a person says to the agent as a whole.

The agent that holds the state directory is asked; where none runs, this process holds it for a moment and writes down
what the next one is to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from agent.cli.asking import either
from agent.cli.options import state_option
from agent.cli.text import in_line
from agent.config import Settings
from agent.errors import Blocked
from agent.paths import StatePaths

if TYPE_CHECKING:
    from agent.operator import Operator
    from agent.source.git.source import GitSource
    from state.desired import Desired

_FETCH = 300.0
"""Seconds that a server and a pass may take."""


@click.command()
@click.argument("plan", required=False, metavar="[PLAN-ID]")
@state_option
def approve(state: StatePaths, plan: str | None) -> None:
    """Let pass what was held back: a plan that destroys many VMs, or a commit that rewrites history.

    `holdfast plan` and `holdfast status` tell its id; what waits by then under another is not approved."""

    async def alone(operator: Operator) -> dict[str, Any]:
        return {"approved": await operator.approve(plan)}

    told = ask(state, "approve", alone, {} if plan is None else {"id": plan})
    click.echo(in_line(f"approved: {told['approved']}"))


@click.command()
@state_option
def suspend(state: StatePaths) -> None:
    """Leave everything alone from now on: nothing is created, restarted or destroyed until `resume`, whoever starts an
    agent. What runs goes on running, and so do scripts that have begun."""

    async def alone(operator: Operator) -> dict[str, Any]:
        return {"changed": await operator.suspend()}

    changed = ask(state, "suspend", alone)["changed"]
    click.echo("suspended" if changed else "it was suspended before")


@click.command()
@state_option
def resume(state: StatePaths) -> None:
    """Keep the VMs as the documents say again, after `suspend`."""

    async def alone(operator: Operator) -> dict[str, Any]:
        return {"changed": await operator.resume()}

    changed = ask(state, "resume", alone)["changed"]
    click.echo("resumed" if changed else "it was not suspended")


@click.command()
@state_option
def reconcile(state: StatePaths) -> int:
    """Look now: fetch the repository, if documents come from one, and make a pass. Status 1 if it could not be
    fetched."""
    from agent.statedir import holder
    from agent.web import client

    if holder(state) is None:
        raise Blocked(f"no agent keeps {state.root}", hint="`holdfast run` starts one")
    told = client.ask(state.api_socket, "reconcile", patience=_FETCH)
    at = f" at commit {told['commit'][:12]}" if told["commit"] else ""
    click.echo(in_line(f"looked at {told['source']}{at}"))
    if told["error"]:
        click.echo(in_line(f"holdfast: {told['error']}"), err=True)
        return 1
    return 0


def ask(
    state: StatePaths,
    what: str,
    alone: Callable[[Operator], Awaitable[dict[str, Any]]],
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the agent answers, or where none runs, what `alone` does with an operator of this process's own."""
    from agent.web import client

    return either(
        state,
        lambda: client.ask(state.api_socket, what, query),
        lambda: by_itself(state, alone, Settings() if what in ("approve", "prune") else None),
    )


def by_itself(
    state: StatePaths,
    what: Callable[[Operator], Awaitable[dict[str, Any]]],
    said: Settings | None,
) -> dict[str, Any]:
    """What comes of it in a process that holds the state directory meanwhile. `said`: what documents to plan by, beyond
    what the last agent was told; None: it needs no plan. Raises StateInUse."""
    from agent.cli.compose import clock_of, hold, open_backend, open_ledger
    from agent.cli.plan import decide
    from agent.operator import Operator
    from state.records import SETTINGS_KEY

    found = decide(state, said) if said is not None else None
    with (
        closing(hold(state.root)) as held,
        closing(open_ledger(held.paths)) as ledger,
    ):
        recorded = Settings.from_json(ledger.meta(SETTINGS_KEY))
        settings = (said or Settings()).or_else(recorded)
        backend = open_backend(held.paths, settings, held.state_id)
        operator = Operator(ledger, clock_of(backend), backend)
        if found is not None:
            operator.passed(*found)
            operator.repository = _offline(settings, held.paths, found[1])
        return asyncio.run(_called(what, operator))


class _Offline:
    """A repository whose server the next agent asks."""

    def __init__(self, source: GitSource) -> None:
        self._source = source

    def refused(self) -> str | None:
        return self._source.approvable

    async def approve(self, commit: str) -> str:
        return self._source.approve(commit)

    def soon(self) -> None: ...

    async def ask(self) -> None: ...


def _offline(settings: Settings, paths: StatePaths, planned: Desired) -> _Offline | None:
    """The repository, as the plan has just seen it: what waits there is brought into the clone of the next agent."""
    if settings.git is None:
        return None
    from agent.cli.compose import open_source
    from agent.source.git.source import GitSource

    source = open_source(settings, paths)
    assert isinstance(source, GitSource)  # noqa: S101 - as the settings say
    if planned.source.refused != source.refused:
        source.fetch()
    return _Offline(source)


async def _called(
    what: Callable[[Operator], Awaitable[dict[str, Any]]], operator: Operator
) -> dict[str, Any]:
    return await what(operator)
