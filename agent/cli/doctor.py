"""`holdfast doctor`: what is wrong with this host, one line a thing, with what to do."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from agent.cli.options import PROGRAM, option, output_option, state_option
from agent.cli.text import in_line
from agent.errors import StateUnusable
from agent.paths import StatePaths

if TYPE_CHECKING:
    from agent.cli.diagnosis import Finding
    from agent.config import Settings

_COLOURS = {"ok": "green", "warning": "yellow", "bad": "red"}


@click.command()
@option("--qemu", type=PROGRAM, metavar="PATH", help="The qemu-system-x86_64 to look at.")
@output_option
@state_option
def doctor(state: StatePaths, output: str, qemu: str | None) -> int:
    """What is wrong with this host, and what to do: QEMU, KVM, which is really tried, the state directory, disk,
    memory, limits, ports, clock, git. Nothing is changed. Status 1 if VMs cannot be kept like this.

    The settings are those of the agent that last ran on the state directory, if there was one."""
    from agent.cli.compose import DEFAULT_QEMU
    from agent.cli.diagnosis import Patient, findings

    settings = _settings(state)
    now = time.time()  # noqa: TID251 - whether the clock is right is one of the questions
    patient = Patient(state, settings, qemu or settings.qemu or DEFAULT_QEMU, now)
    found = []
    for finding in findings(patient):
        found.append(finding)
        if output == "text":
            click.echo(_line(finding))
    well = all(finding.verdict != "bad" for finding in found)
    if output == "json":
        click.echo(json.dumps({"well": well, "checks": [asdict(one) for one in found]}, indent=2))
    return 0 if well else 1


def _settings(state: StatePaths) -> Settings:
    from agent.cli.reading import read
    from agent.config import Settings
    from state.records import SETTINGS_KEY

    with suppress(StateUnusable), read(state) as reader:
        return Settings.from_json(reader.meta(SETTINGS_KEY))
    return Settings()


def _line(finding: Finding) -> str:
    verdict = click.style(f"{finding.verdict:<8}", fg=_COLOURS[finding.verdict])
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"{verdict} {finding.check:<12} {in_line(finding.message + hint)}"
