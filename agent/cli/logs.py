"""`holdfast logs`: what a run of a job said, what a guest wrote to its serial console, what QEMU said."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from agent.cli.following import Growing, Replaced
from agent.cli.options import option, state_option
from agent.cli.reading import open_reader
from agent.cli.runs import meant, runs_of
from agent.errors import BadInput
from agent.paths import StatePaths
from state.observed import Instance

_LOOK_AGAIN = 0.2


@click.command()
@click.argument("name")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on as it is written, until the run has ended or the VM is destroyed.",
)
@click.option(
    "-n", "--lines", type=click.IntRange(1), metavar="N", help="Only the last so many lines."
)
@option("--run", "run", envvar=None, metavar="RUN", help="Another run of a job: its number or id.")
@option(
    "--console", is_flag=True, envvar=None, help="The serial console (what a VM has by default)."
)
@option("--qemu", is_flag=True, envvar=None, help="QEMU's own words instead.")
@state_option
def logs(  # noqa: PLR0913 - one for each option
    state: StatePaths,
    name: str,
    follow: bool,
    lines: int | None,
    run: str | None,
    console: bool,
    qemu: bool,
) -> None:
    """The log of a job's latest run, or what the guest of a VM wrote to its serial console. Control characters are
    shown, not obeyed."""
    if (run is not None) + console + qemu > 1:
        raise click.UsageError("--run, --console and --qemu exclude each other")
    instance = _newest(state, name)
    if run is not None or (not (console or qemu) and _is_job(state, name, instance)):
        _of_run(state, name, run, lines=lines, follow=follow)
    elif instance is not None:
        _of_vm(state, instance, qemu=qemu, lines=lines, follow=follow)
    elif _is_job(state, name, instance):
        raise BadInput(
            f"{name} has no VM just now", hint=f"`holdfast logs {name}` shows what its run said"
        )
    else:
        raise BadInput(
            f"there is no VM or job `{name}` here", hint="`holdfast status` lists every name"
        )


def _is_job(state: StatePaths, name: str, instance: Instance | None) -> bool:
    """Whether the name is, or last was, a job's."""
    if instance is not None:
        return instance.kind == "job"
    return bool(runs_of(state, name))


def _of_run(
    state: StatePaths, name: str, said: str | None, *, lines: int | None, follow: bool
) -> None:
    run = meant(state, name, said)
    shown, waiting = Growing(state.run(run.id).log, lines), threading.Event()
    while True:
        # Asked first: what an ended run has said is all there when that is recorded.
        run = meant(state, name, run.id)
        shown.go_on()
        if run.phase.ended or not follow:
            break
        waiting.wait(_LOOK_AGAIN)
    shown.close()
    if not shown.found and run.attempt and run.phase.ended:
        raise BadInput(
            f"the log of run {run.number} of {name} is not kept any more",
            hint=f"`holdfast job history {name}` says how it ended",
        )
    if not shown.found:
        raise BadInput(
            f"run {run.number} of {name} has said nothing: it is {run.phase.value}",
            hint=f"see `holdfast explain {name}`",
        )


def _of_vm(
    state: StatePaths, first: Instance, *, qemu: bool, lines: int | None, follow: bool
) -> None:
    def log_of(one: Instance) -> Path:
        files = state.instance(one.uid)
        return files.qemu_log if qemu else files.console_log

    shown, waiting = Replaced(lines), threading.Event()
    log = log_of(first)
    if not shown.go_on(log) and not follow and first.started_at is not None:
        raise BadInput(
            f"reading the log of {first.name}: somebody removed {log}",
            hint="it is made anew when the VM is started again",
        )
    instance: Instance | None = first
    while follow and instance is not None:
        waiting.wait(_LOOK_AGAIN)
        instance = _newest(state, first.name)
        shown.go_on(log if instance is None else (log := log_of(instance)))
    shown.close()


def _newest(state: StatePaths, name: str) -> Instance | None:
    """The last instance of the name that was ever started, else the last one."""
    reader = open_reader(state)
    try:
        instances = [one for one in reader.instances() if one.name == name]
    finally:
        reader.close()
    started = [one for one in instances if one.started_at is not None] or instances
    return started[-1] if started else None
