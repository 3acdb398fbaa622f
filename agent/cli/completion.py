"""`holdfast completion`: what makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from agent.cli.output import write_all

VARIABLE = "_HOLDFAST_COMPLETE"
"""By which the shell asks this program, as click has it."""
_WHERE = {
    "bash": "~/.local/share/bash-completion/completions/holdfast",
    "zsh": "a directory of $fpath, as _holdfast",
    "fish": "~/.config/fish/completions/holdfast.fish",
}


@click.command(epilog="\n\n".join(f"{shell}: {where}" for shell, where in _WHERE.items()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print what makes a SHELL complete commands and options. Where to put it:"""
    from agent.cli import holdfast

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - one of click's own
    script = found(holdfast, {}, "holdfast", VARIABLE)
    write_all(1, (script.source_template % script.source_vars() + "\n").encode())
