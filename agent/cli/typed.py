"""Commands that a person can type as they are printed: on the state directory that they were told of."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import click

from agent.paths import StatePaths, default_state

_KEY = "agent.cli.typed.state"
_OF_ALL = "agent.cli.typed.of_all"
_COMMAND = re.compile(r"`holdfast (?!validate|schema)(?:job )?[a-z]+")


def remember(context: click.Context, state: StatePaths) -> None:
    """What this command works on, and whether the environment says it, which tells the next one too."""
    source = context.get_parameter_source("state")
    context.meta[_KEY] = state
    context.meta[_OF_ALL] = source is click.core.ParameterSource.ENVIRONMENT


def typed(text: str) -> str:
    """`text`, in which each command of holdfast names the state directory, unless it takes the very same by itself."""
    context = click.get_current_context(silent=True)
    state = context.meta.get(_KEY) if context is not None else None
    if not isinstance(state, StatePaths) or not (words := state_words(state)):
        return text
    return _COMMAND.sub(lambda found: found.group() + words, text)


def state_words(state: StatePaths) -> str:
    """The option that names the state directory, with a space before it; empty where commands take it by themselves."""
    context = click.get_current_context(silent=True)
    of_all = context is not None and context.meta.get(_OF_ALL, False)
    if of_all or state.root == default_state():
        return ""
    relative = os.path.relpath(state.root)
    shortest = str(state.root) if relative.startswith("..") else relative
    return f" --state {shlex.quote(shortest)}"


def program() -> str:
    """How this program was called, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    if called.name != "holdfast" or "/" not in sys.argv[0] or _is_what_a_shell_finds(called):
        return "holdfast"
    return os.path.relpath(called)


def _is_what_a_shell_finds(called: Path) -> bool:
    try:
        return (found := shutil.which("holdfast")) is not None and called.samefile(found)
    except OSError:  # an upgrade may have taken away what still runs
        return False
