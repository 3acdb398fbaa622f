"""The options of `run` and `plan` that make an agent's settings: where documents come from, and what is planned
against them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from agent.cli.options import PATH, PROGRAM, duration, option
from agent.config import Settings
from agent.errors import BadUsage
from agent.paths import StatePaths
from state.spec.units import parse_size

F = TypeVar("F", bound=Callable[..., Any])

_LABEL_MOST = re.compile(r"\s*([^\s=,]+)\s*=\s*([0-9]{1,6})\s*")


def _size(context: click.Context, param: click.Parameter, said: str | None) -> int | None:
    """Bytes, written as in documents."""
    try:
        return None if said is None else parse_size(said)
    except ValueError as error:
        raise click.BadParameter(str(error), context, param) from error


def _capacity(
    context: click.Context, param: click.Parameter, said: tuple[str, ...]
) -> tuple[tuple[str, int], ...]:
    """All that was said as one map; of a label that is said twice the last word counts."""
    most = {}
    for part in ",".join(said).split(",") if said else ():
        found = _LABEL_MOST.fullmatch(part)
        if found is None:
            raise click.BadParameter(
                f"{part!r} is no label with a number (write LABEL=N, like debian-12=1)",
                context,
                param,
            )
        most[found.group(1)] = int(found.group(2))
    return tuple(sorted(most.items()))


def said_settings(state: StatePaths, options: dict[str, Any]) -> Settings:
    """The settings among a command's options. Raises BadUsage where they name a tree of documents that cannot be read
    and there is no state yet. Where there is, the tree may only be late, such as one that is mounted after the host has
    booted: the VMs come back and are held meanwhile."""
    said = Settings.from_options(_one_source(options))
    if said.desired is not None and not state.database.exists():
        try:
            os.listdir(said.desired)
        except OSError as error:
            raise BadUsage(
                f"reading the documents of {said.desired}: {error.strerror}",
                hint="--desired takes the directory that they lie in",
            ) from error
    return said


def _one_source(options: dict[str, Any]) -> dict[str, Any]:
    """The options with one of `--desired` and `--git`: what is said counts before the environment, that before the
    configuration. Raises BadUsage where both are said alike."""
    context = click.get_current_context()
    said = [name for name in ("desired", "git") if options.get(name) is not None]
    if len(said) < 2:
        return options
    ranks = {name: _RANKS.get(context.get_parameter_source(name), 0) for name in said}
    weaker = min(said, key=lambda name: ranks[name])
    if len(set(ranks.values())) == 1:
        raise BadUsage("--desired and --git are both given", hint="documents come from one source")
    return {**options, weaker: None}


_RANKS: dict[click.core.ParameterSource | None, int] = {
    click.core.ParameterSource.COMMANDLINE: 2,
    click.core.ParameterSource.ENVIRONMENT: 1,
}


def _repository(context: click.Context, param: click.Parameter, said: str | None) -> str | None:
    """A repository's URL; the path of one, made absolute."""
    del context, param
    return os.path.abspath(said) if said is not None and os.path.isdir(said) else said


def source_options(function: F) -> F:
    """The options of `run` that say where documents come from and what they are planned against."""
    options = [
        option("--desired", type=PATH, metavar="DIR", help="Directory of documents."),
        option(
            "--git",
            metavar="URL",
            callback=_repository,
            help="Repository of documents: https, ssh, file, or a path.",
        ),
        option("--branch", metavar="B", help="Its branch; default: the one that its HEAD names."),
        option("--path", metavar="P", help="The directory of documents in it; default: its root."),
        option(
            "--verify-signatures",
            type=PATH,
            metavar="FILE",
            help="Follow only commits signed by those in this allowed-signers file or keyring.",
        ),
        option(
            "--status-ref",
            metavar="REF",
            help="Push status.json and STATUS.md there, like refs/holdfast/status/HOST.",
        ),
        option("--images", type=PATH, metavar="FILE", help="An image map outside the tree."),
        option(
            "--secrets",
            type=PATH,
            metavar="FILE",
            help="The secrets of this host that jobs may have, and which jobs those are.",
        ),
        option(
            "--image-root",
            type=PATH,
            multiple=True,
            metavar="DIR",
            help="Where file sources of images may lie; may be given again.",
        ),
        option("--host", metavar="NAME", help="This host's name for `hosts:`; default: its own."),
        option(
            "--accel",
            type=click.Choice(["auto", "kvm", "tcg"]),
            help="Accelerator; auto measures.",
        ),
        option("--qemu", type=PROGRAM, metavar="PATH", help="The qemu-system-x86_64 to run."),
        option(
            "--hypervisor",
            type=click.Choice(["qemu", "memory"]),
            help="What runs the VMs; memory: nothing is started, to try documents.",
        ),
        option(
            "--max-concurrency",
            type=click.IntRange(min=1),
            metavar="N",
            help="Jobs at once, beside VMs that are kept for a look.  [default: 2]",
        ),
        option(
            "--capacity-map",
            multiple=True,
            callback=_capacity,
            metavar="LABEL=N,…",
            help="Of those, at most N whose image a label or an alias means; may be given again.",
        ),
        option(
            "--max-destroy",
            type=click.IntRange(min=0),
            metavar="N",
            help="More VMs are destroyed at once only if approved.  [default: half of those that run, 3 at least]",
        ),
        option(
            "--disk-floor",
            callback=_size,
            metavar="SIZE",
            help="Where less of the disk is free, nothing new begins and no image is fetched.  [default: 512MiB]",
        ),
        option(
            "--drain-timeout",
            callback=duration,
            metavar="DURATION",
            help="How long running jobs may go on when the agent is to leave.  [default: 60s]",
        ),
        option(
            "--on-stop",
            type=click.Choice(["leave", "shutdown"]),
            help="What becomes of VMs when the agent leaves; shutdown: they are powered down.  [default: leave]",
        ),
    ]
    for one in reversed(options):
        function = one(function)
    return function
