"""`holdfast`: one program, one file for each family of commands, each loaded only when it is called.

This is the composition root: the only package that names a concrete hypervisor or source. It turns errors into one
sentence on standard error and an exit status.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from agent.cli import output
from agent.cli.text import harmless
from agent.cli.typed import typed
from agent.errors import BadUsage, HoldfastError, StateInUse

EXIT_USAGE = 64
"""EX_USAGE of sysexits.h."""
EXIT_BUG = 70
"""EX_SOFTWARE."""
EXIT_IN_USE = 75
"""EX_TEMPFAIL."""

_COMMANDS = {
    "run": ("agent.cli.run", "The agent: keep the VMs as the documents say."),
    "plan": ("agent.cli.plan", "What `run` would do, and why."),
    "validate": ("agent.cli.validate", "Check documents; needs no state and no QEMU."),
    "status": ("agent.cli.status", "Every name: phase, ready, reason, SSH."),
    "explain": ("agent.cli.explain", "Why one name is as it is."),
    "logs": ("agent.cli.logs", "A job's log, a VM's serial log."),
    "job": ("agent.cli.job", "Run a job again, cancel it, its past runs, what they left."),
    "images": ("agent.cli.images", "The store of base images: what lies there, fetching, pruning."),
    "events": ("agent.cli.events", "What happened."),
    "top": ("agent.cli.top", "What every VM uses just now."),
    "metrics": ("agent.cli.metrics", "What one name has used."),
    "approve": ("agent.cli.operate", "Let pass what was held back."),
    "suspend": ("agent.cli.operate", "Leave everything alone until `resume`."),
    "resume": ("agent.cli.operate", "Keep the VMs as the documents say again."),
    "reconcile": ("agent.cli.operate", "Fetch and look now."),
    "stop": ("agent.cli.stop", "Let the agent leave; VMs run on, or are powered down."),
    "ssh": ("agent.cli.ssh", "Into a guest, with pinned keys."),
    "cp": ("agent.cli.cp", "Files into a guest and out of it."),
    "console": ("agent.cli.console", "A VM's serial line."),
    "install-service": ("agent.cli.service", "Write the units that systemd runs the agent by."),
    "down": ("agent.cli.down", "Destroy everything of a state directory."),
    "doctor": ("agent.cli.doctor", "What is wrong with this host, and what to do."),
    "simulate": ("agent.cli.simulate", "Random faults on a host in memory; the promises checked."),
    "completion": ("agent.cli.completion", "Commands and options in bash, zsh and fish."),
    "schema": ("agent.cli.validate", "JSON Schema of the documents, for editors."),
}


class _Lazy(click.Group):
    """A group that imports a command's module when the command is named; the list of commands needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - a bug of this table
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            error.message, error.hint = typed(error.message), typed(error.hint)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in _COMMANDS.items()])


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from agent.cli.version import told

        click.echo(f"holdfast, version {told()}")
        context.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and leave.",
)
@click.option(
    "--debug", is_flag=True, envvar="HOLDFAST_DEBUG", show_envvar=True, help="Show tracebacks."
)
def holdfast(debug: bool) -> None:
    """Virtual machines on one host, kept exactly as a directory of YAML or a git repository says."""


def main() -> None:
    """Run the program and leave with its status."""
    # Nobody's plugin has a say in documents; and to look for one, pydantic reads what every installed package tells.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    output.install()
    sys.exit(_run())


def _run() -> int:
    debug = "--debug" in sys.argv[1:2] or bool(os.environ.get("HOLDFAST_DEBUG"))
    try:
        status = holdfast.main(prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return 1
    except click.Abort:
        click.echo("holdfast: interrupted", err=True)
        return 130
    except HoldfastError as error:
        if debug:
            raise
        click.echo(harmless(f"holdfast: {error}"), err=True)
        return _status(error)
    except output.OutputLost as lost:
        return _unwritten(lost)
    except Exception as bug:
        if debug:
            raise
        return _unexpected(bug)
    return status if isinstance(status, int) else 0


def _status(error: HoldfastError) -> int:
    if isinstance(error, BadUsage):
        return EXIT_USAGE
    return EXIT_IN_USE if isinstance(error, StateInUse) else 1


def _unwritten(lost: output.OutputLost) -> int:
    output.give_up()
    if lost.unread:
        return output.EXIT_PIPE
    click.echo(f"holdfast: {lost}", err=True)
    return 1


def _unexpected(error: Exception) -> int:
    from agent.cli.reading import of_the_ledger

    if (trouble := of_the_ledger(error)) is not None:
        advice = "see to the disk of the state directory, and try again"
        click.echo(f"holdfast: {trouble} ({advice})", err=True)
        return 1
    click.echo(
        f"holdfast: a bug of holdfast: {type(error).__name__}: {error}"
        " (run it again with `holdfast --debug` and report what it prints)",
        err=True,
    )
    return EXIT_BUG
